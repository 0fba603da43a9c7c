package events

import (
	"bytes"
	"fmt"
	"net/netip"
	"testing"

	gcnp "github.com/datastax/go-cassandra-native-protocol/frame"
	"github.com/datastax/go-cassandra-native-protocol/message"
	"github.com/datastax/go-cassandra-native-protocol/primitive"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
)

// decode has another implementation of the protocol read an event.
func decode(t *testing.T, v frame.Version, body []byte) message.Message {
	t.Helper()
	f := frame.AppendHeader(nil, v, true, 0, -1, frame.OpEvent, 0)
	f = append(f, body...)
	frame.PutLength(f)
	in := bytes.NewReader(f)
	got, err := gcnp.NewCodec().DecodeFrame(in)
	if err != nil || in.Len() != 0 {
		t.Fatalf("% x in v%d: %v, %d bytes left", body, v, err, in.Len())
	}
	return got.Body.Message
}

func TestStatusEventsHaveTheAddressInEveryVersion(t *testing.T) {
	t.Parallel()
	for _, v := range []frame.Version{frame.V3, frame.V4, frame.V5} {
		for _, addr := range []string{"10.1.2.3:9042", "[2001:db8::1]:19042", "[::ffff:10.1.2.3]:9042"} {
			for change, body := range map[primitive.StatusChangeType][]byte{
				primitive.StatusChangeTypeUp: Up(netip.MustParseAddrPort(addr)), primitive.StatusChangeTypeDown: Down(netip.MustParseAddrPort(addr)),
			} {
				got, ok := decode(t, v, body).(*message.StatusChangeEvent)
				want := netip.MustParseAddrPort(addr)
				if !ok || got.ChangeType != change || got.Address.Addr.String() != want.Addr().Unmap().String() || got.Address.Port != int32(want.Port()) {
					t.Errorf("%s of %s in v%d is read as %v", change, addr, v, got)
				}
			}
		}
	}
}

func TestKeyspaceUpdatedIsReadAsThat(t *testing.T) {
	t.Parallel()
	got, ok := decode(t, frame.V4, KeyspaceUpdated("Ks")).(*message.SchemaChangeEvent)
	if !ok || got.ChangeType != primitive.SchemaChangeTypeUpdated || got.Target != primitive.SchemaChangeTargetKeyspace || got.Keyspace != "Ks" {
		t.Errorf("read as %v", got)
	}
}

func TestRegisterSaysWhichEventsAreWanted(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		kinds []string
		want  string
	}{
		{nil, "0"},
		{[]string{"SCHEMA_CHANGE"}, "1"},
		{[]string{"STATUS_CHANGE"}, "2"},
		{[]string{"TOPOLOGY_CHANGE"}, "0"},
		{[]string{"TOPOLOGY_CHANGE", "STATUS_CHANGE", "SCHEMA_CHANGE"}, "3"},
		{[]string{"SCHEMA_CHANGE", "schema_change"}, "invalid value 'schema_change' for Type"},
	} {
		got, err := ParseRegister(frame.AppendStringList(nil, c.kinds))
		told := fmt.Sprint(uint32(got))
		if err != nil {
			told = err.Error()
		}
		if told != c.want {
			t.Errorf("%q: %s, want %s", c.kinds, told, c.want)
		}
	}
	if _, err := ParseRegister([]byte{0, 2, 0, 13, 'S'}); err == nil {
		t.Error("half a body is accepted")
	}
}
