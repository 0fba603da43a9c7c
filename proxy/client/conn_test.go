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
