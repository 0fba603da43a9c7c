// Package cqltest is a scriptable CQL node for tests: it answers like an
// ordinary small Cassandra until a test's handler makes it late, silent, wrong
// or broken in a way that a real node cannot be made to show.
//
// Floor 5, for tests only; it knows nothing of the proxy. Frames are read and
// written by go-cassandra-native-protocol, so that it is an oracle independent
// of our own codecs: a frame that does not decode, bytes left over after a
// message, or a stream id used again while its request is unanswered fail the
// test (Options.Lenient turns that off). Protocol v3 to v5, DSE_V1 and DSE_V2; no
// compression but that of v5's segments.
//
//	origin := cqltest.Start(t, cqltest.Options{Release: "4.1.8"})
//	release := make(chan struct{})
//	origin.Handle(func(r cqltest.Request) cqltest.Reply {
//		if strings.HasPrefix(r.Text, "INSERT") {
//			return cqltest.Ordinary().After(release)
//		}
//		return cqltest.Ordinary()
//	})
//	...
//	sent := origin.WaitFor(t, 1, cqltest.WithText("INSERT"))
//
// Goroutines: one accepts, one serves each connection, and each delayed reply
// has one of its own; the node owns them all and awaits them at the test's end.
package cqltest
