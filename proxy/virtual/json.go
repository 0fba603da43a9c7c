package virtual

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/datastax/go-cassandra-native-protocol/datatype"
	"github.com/datastax/go-cassandra-native-protocol/message"
	"github.com/datastax/go-cassandra-native-protocol/primitive"
)

// jsonObject renders a row as SELECT JSON does.
func jsonObject(columns []*message.ColumnMetadata, row message.Row) []byte {
	out := []byte{'{'}
	for i, c := range columns {
		if i > 0 {
			out = append(out, ", "...)
		}
		// A name with capitals is in quotes inside the JSON string; no other is.
		name := c.Name
		if name != strings.ToLower(name) {
			name = `"` + name + `"`
		}
		out = append(out, quoteJSON(name)...)
		out = append(out, ": "...)
		out = append(out, jsonValue(c.Type, row[i])...)
	}
	return append(out, '}')
}

// jsonValue renders a cell. Types that no known system table has are blobs.
func jsonValue(kind datatype.DataType, cell []byte) string {
	if cell == nil {
		return "null"
	}
	switch kind := kind.(type) {
	case *datatype.List:
		return jsonElements(kind.ElementType, cell)
	case *datatype.Set:
		return jsonElements(kind.ElementType, cell)
	case *datatype.Map:
		return jsonMap(kind, cell)
	}
	switch code := kind.Code(); {
	case isText(code):
		return quoteJSON(string(cell))
	case code == datatype.Inet.Code():
		if addr, ok := netip.AddrFromSlice(cell); ok {
			return `"` + addr.String() + `"`
		}
	case isUUID(code) && len(cell) == 16:
		id := primitive.UUID(cell)
		return `"` + id.String() + `"`
	case code == datatype.Int.Code() && len(cell) == 4:
		return strconv.Itoa(int(int32(binary.BigEndian.Uint32(cell))))
	case code == datatype.Bigint.Code() && len(cell) == 8:
		return strconv.FormatInt(int64(binary.BigEndian.Uint64(cell)), 10)
	case code == datatype.Timestamp.Code() && len(cell) == 8:
		return timeOf(code, cell).Format(`"2006-01-02 15:04:05.000Z"`)
	case code == datatype.Date.Code() && len(cell) == 4:
		return timeOf(code, cell).Format(`"2006-01-02"`)
	case code == datatype.Time.Code() && len(cell) == 8:
		return time.Unix(0, int64(binary.BigEndian.Uint64(cell))).UTC().Format(`"15:04:05.000000000"`)
	case code == datatype.Boolean.Code() && len(cell) == 1:
		return strconv.FormatBool(cell[0] != 0)
	}
	return `"0x` + hex.EncodeToString(cell) + `"`
}

func jsonElements(kind datatype.DataType, cell []byte) string {
	elements, _ := listOf(cell, 1)
	out := []byte{'['}
	for i, e := range elements {
		if i > 0 {
			out = append(out, ", "...)
		}
		out = append(out, jsonValue(kind, e)...)
	}
	return string(append(out, ']'))
}

// jsonMap renders a map. A key is a string, whatever its type.
func jsonMap(kind *datatype.Map, cell []byte) string {
	elements, _ := listOf(cell, 2)
	out := []byte{'{'}
	for i := 0; i+1 < len(elements); i += 2 {
		if i > 0 {
			out = append(out, ", "...)
		}
		key := jsonValue(kind.KeyType, elements[i])
		if key[0] != '"' {
			key = `"` + key + `"`
		}
		out = append(out, key...)
		out = append(out, ": "...)
		out = append(out, jsonValue(kind.ValueType, elements[i+1])...)
	}
	return string(append(out, '}'))
}

func quoteJSON(text string) string {
	var buf bytes.Buffer
	e := json.NewEncoder(&buf)
	e.SetEscapeHTML(false)
	_ = e.Encode(text) // a string always encodes
	return string(bytes.TrimRight(buf.Bytes(), "\n"))
}
