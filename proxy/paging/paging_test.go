package paging_test

import (
	"bytes"
	"testing"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
	"github.com/zdmproject/terraform-provider-zdm/proxy/paging"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// rows is a RESULT Rows frame of no columns with a paging state.
func rows(state []byte) frame.Frame {
	f := frame.AppendHeader(nil, frame.V4, true, 0, 5, frame.OpResult, 0)
	f = frame.AppendInt(f, 2)    // kind Rows
	f = frame.AppendInt(f, 0x02) // has more pages
	f = frame.AppendInt(f, 0)    // columns
	f = frame.AppendBytes(f, state)
	f = frame.AppendInt(f, 0) // rows
	frame.PutLength(f)
	return f
}

func TestATaggedStateTellsItsIssuerAndComesBackAsItWas(t *testing.T) {
	t.Parallel()
	for _, side := range phase.Sides {
		state := []byte("state of " + side.String())
		plain := rows(state)
		at := paging.Offset(plain)
		if at < 0 {
			t.Fatal("Offset finds no paging state")
		}
		tagged := frame.Frame(paging.AppendTagged([]byte("before"), plain, at, side)[len("before"):])
		if got := len(tagged.Body()); got != len(plain.Body())+6 {
			t.Errorf("%s: the tagged body has %d bytes, want 6 more than %d", side, got, len(plain.Body()))
		}
		r, err := frame.ParseRows(tagged.Body())
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := paging.Issuer(r.PagingState); !ok || got != side {
			t.Errorf("Issuer = %s, %v; want %s", got, ok, side)
		}
		// A request holds the state in the same form, so the same frame serves.
		if back := paging.AppendUntagged(nil, tagged, paging.Offset(tagged)); !bytes.Equal(back, plain) {
			t.Errorf("%s: untagged again it is\n%x, want\n%x", side, back, plain)
		}
	}
}

func TestAForeignStateHasNoIssuer(t *testing.T) {
	t.Parallel()
	for _, state := range [][]byte{nil, {}, []byte("zdm\x01"), []byte("zdm\x01\x00\x00state"), []byte("zdm\x01\x02\xfdstate"), bytes.Repeat([]byte{0xFF}, 40)} {
		if side, ok := paging.Issuer(state); ok {
			t.Errorf("Issuer(%x) = %s, want none", state, side)
		}
	}
}
