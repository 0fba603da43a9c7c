// Package frame reads and writes CQL native protocol frames as bytes: headers,
// a buffered Reader, views on request and response bodies, ERROR frames, the
// segments of v5 and compression.
//
// Floor 1. It knows the layouts of protocol v3, v4, v5, DSE v1 and DSE v2, and
// nothing of sockets, sessions, phases or statements. It starts no goroutine,
// and values with state are not safe for concurrent use.
//
// All of it is on the request path: a view is a value whose slices point into
// the body that it was read from, and neither reading a frame nor taking a view
// allocates. Errors do. Names in brackets, such as [short bytes], are those of
// the protocol specification (native_protocol_v4.spec, section 3).
package frame
