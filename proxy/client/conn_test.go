package client

import (
	"bytes"
	"testing"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
)

func TestTheCompressionFlagOfAFrameMeansNothingInV5(t *testing.T) {
	t.Parallel()
	body := []byte("not compressed")
	f := frame.AppendHeader(nil, frame.V5, false, frame.FlagCompressed|frame.FlagTracing, 1, frame.OpQuery, len(body))
	c := &Conn{Version: frame.V5}
	got, err := c.Decompress(append(f, body...))
	if err != nil || got.Flags() != frame.FlagTracing || !bytes.Equal(got.Body(), body) {
		t.Errorf("got % x, %v; want the frame without the flag", got, err)
	}
}

func TestAV3ClientGetsNoSchemaEventThatItsVersionDoesNotKnow(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		target  string
		details []string
		newInV4 bool
	}{
		{"KEYSPACE", []string{"ks"}, false},
		{"TABLE", []string{"ks", "t"}, false},
		{"TYPE", []string{"ks", "t"}, false},
		{"FUNCTION", []string{"ks", "f"}, true},
		{"AGGREGATE", []string{"ks", "a"}, true},
		// It is the target that counts, not what is called so.
		{"KEYSPACE", []string{"FUNCTION"}, false},
		{"TABLE", []string{"FUNCTION", "AGGREGATE"}, false},
	} {
		body := frame.AppendString(nil, "SCHEMA_CHANGE")
		body = frame.AppendString(frame.AppendString(body, "CREATED"), test.target)
		for _, text := range test.details {
			body = frame.AppendString(body, text)
		}
		if test.newInV4 {
			body = frame.AppendShort(body, 0) // the types of the arguments
		}
		if got := newInV4(body); got != test.newInV4 {
			t.Errorf("CREATED %s %q: new in v4 is %t, want %t", test.target, test.details, got, test.newInV4)
		}
	}
}
