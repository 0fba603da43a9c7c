package events

import (
	"fmt"
	"net/netip"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
)

// Kinds are the kinds of events that a client has registered for. The zero value
// is none.
type Kinds uint32

// The kinds that proxies send. TOPOLOGY_CHANGE may be registered for, and never
// comes: the ring of proxies is as configured.
const (
	Schema Kinds = 1 << iota // SCHEMA_CHANGE
	Status                   // STATUS_CHANGE
)

// Has reports whether k is among them.
func (ks Kinds) Has(k Kinds) bool { return ks&k != 0 }

// Of makes the set of kinds that are true.
func Of(schema, status bool) (ks Kinds) {
	if schema {
		ks |= Schema
	}
	if status {
		ks |= Status
	}
	return ks
}

// ParseRegister reads the body of a REGISTER: [string list] of kinds.
func ParseRegister(body []byte) (Kinds, error) {
	var ks Kinds
	c := frame.NewCursor(body)
	for range c.Short("event types") {
		switch k := string(c.String("event type")); k {
		case "SCHEMA_CHANGE":
			ks |= Schema
		case "STATUS_CHANGE":
			ks |= Status
		case "TOPOLOGY_CHANGE":
		default:
			if err := c.Err(); err != nil {
				return 0, err
			}
			return 0, fmt.Errorf("invalid value '%s' for Type", k)
		}
	}
	return ks, c.Err()
}

// Up and Down make the body of a STATUS_CHANGE, the same in v3 to v5:
//
//	<"STATUS_CHANGE"><"UP" or "DOWN"><[byte] n><n bytes of address><[int] port>
func Up(proxy netip.AddrPort) []byte { return status("UP", proxy) }

// Down is described at Up.
func Down(proxy netip.AddrPort) []byte { return status("DOWN", proxy) }

func status(change string, proxy netip.AddrPort) []byte {
	body := frame.AppendString(nil, "STATUS_CHANGE")
	body = frame.AppendString(body, change)
	addr := proxy.Addr().Unmap().AsSlice()
	body = append(append(body, byte(len(addr))), addr...)
	return frame.AppendInt(body, int32(proxy.Port()))
}

// Farewell is what clients that have registered for status events hear last. They
// hear it when Quiet is closed and they have nothing in flight: gocql, for one, then
// closes all its connections to the proxy, with what is in flight on the others.
type Farewell struct {
	Body  []byte
	Quiet <-chan struct{}
}

// KeyspaceUpdated makes the body of the SCHEMA_CHANGE that says that something in
// a keyspace has changed:
//
//	<"SCHEMA_CHANGE"><"UPDATED"><"KEYSPACE"><keyspace>
func KeyspaceUpdated(keyspace string) []byte {
	body := frame.AppendString(nil, "SCHEMA_CHANGE")
	body = frame.AppendString(body, "UPDATED")
	body = frame.AppendString(body, "KEYSPACE")
	return frame.AppendString(body, keyspace)
}
