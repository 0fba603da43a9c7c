package scan

// call notes the function whose argument list begins at the current token.
func (s *scanner) call() {
	name := s.ident(s.prev)
	if s.dotted {
		if !s.ident(s.qualifier).Is("system") {
			s.st.Functions |= UnknownFunction
			return
		}
	} else if !name.Quoted && beforeParenthesis(name.Raw) {
		return
	}
	s.st.Functions |= functionOf(name)
}

// beforeParenthesis: keywords that a parenthesis may follow.
func beforeParenthesis(word []byte) bool {
	switch len(word) {
	case 2:
		return equalFold(word, "in") || equalFold(word, "if") || equalFold(word, "or") || equalFold(word, "by") ||
			equalFold(word, "of") || equalFold(word, "is") || equalFold(word, "as")
	case 3:
		return equalFold(word, "and") || equalFold(word, "set") || equalFold(word, "not") || equalFold(word, "key")
	case 4:
		return equalFold(word, "like") || equalFold(word, "json")
	case 5:
		return equalFold(word, "where") || equalFold(word, "using") || equalFold(word, "limit")
	case 6:
		return equalFold(word, "values") || equalFold(word, "select")
	case 7:
		return equalFold(word, "between")
	case 8:
		return equalFold(word, "contains") || equalFold(word, "distinct")
	}
	return false
}

func functionOf(name Ident) Functions {
	switch {
	case name.Is("now"):
		return Now
	case name.Is("uuid"):
		return NewUUID
	case name.Is("currenttimestamp"), name.Is("current_timestamp"):
		return CurrentTimestamp
	case name.Is("currentdate"), name.Is("current_date"):
		return CurrentDate
	case name.Is("currenttime"), name.Is("current_time"):
		return CurrentTime
	case name.Is("currenttimeuuid"), name.Is("current_timeuuid"):
		return CurrentTimeUUID
	}
	if len(name.Raw) == 0 {
		return UnknownFunction
	}
	for _, pure := range pureFunctions {
		if name.Is(pure) {
			return 0
		}
	}
	return UnknownFunction
}

// pureFunctions are Cassandra's own, up to 5.0, whose value depends on their
// arguments and the row alone. Those to and from blobs have the type in their
// name. expr is none, but a condition for a custom index.
var pureFunctions = func() []string {
	names := []string{
		"token", "cast", "ttl", "writetime", "maxwritetime", "count", "min", "max", "avg", "sum",
		"mintimeuuid", "maxtimeuuid", "min_timeuuid", "max_timeuuid",
		"todate", "totimestamp", "tounixtimestamp", "to_date", "to_timestamp", "to_unix_timestamp",
		"dateof", "unixtimestampof", "floor",
		"tojson", "fromjson", "to_json", "from_json",
		"abs", "exp", "log", "log10", "round",
		"map_keys", "map_values", "collection_count", "collection_min", "collection_max", "collection_sum", "collection_avg",
		"mask_null", "mask_default", "mask_replace", "mask_inner", "mask_outer", "mask_hash",
		"similarity_cosine", "similarity_euclidean", "similarity_dot_product",
		"format_bytes", "format_time", "expr",
	}
	for _, t := range []string{"ascii", "bigint", "blob", "boolean", "counter", "date", "decimal", "double", "duration", "float",
		"inet", "int", "smallint", "text", "time", "timestamp", "timeuuid", "tinyint", "uuid", "varchar", "varint", "vector"} {
		names = append(names, t+"asblob", "blobas"+t, t+"_as_blob", "blob_as_"+t)
	}
	return names
}()
