package frame

// Option is one that SUPPORTED tells, with the values that a client may choose
// from in STARTUP.
type Option struct {
	Name   string
	Values []string
}

// Supported makes the answer to OPTIONS: a string multimap (section 4.2.4), on
// stream 0. The options are told in their order, so that equal ones give equal
// bytes.
func Supported(v Version, options []Option) Frame {
	f := AppendHeader(nil, v, true, 0, 0, OpSupported, 0)
	f = AppendShort(f, uint16(len(options)))
	for _, o := range options {
		f = AppendString(f, o.Name)
		f = AppendStringList(f, o.Values)
	}
	PutLength(f)
	return f
}
