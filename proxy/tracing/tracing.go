// Package tracing gives requests an id in their custom payload, by which a line of
// this proxy's log, a client's and a node's belong together.
//
// Floor 2: it knows frames, and no sessions. A Tracer may be used from any
// goroutine; it starts none.
package tracing

import (
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"net"

	"golang.org/x/time/rate"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
)

// Options are the settings of the same names.
type Options struct {
	// Key is that of the id in the custom payload.
	Key string
	// RateLimit is how many requests a second are traced; 0 for all.
	RateLimit int
	Log       *slog.Logger
}

// Tracer traces requests.
type Tracer struct {
	key     string
	limiter *rate.Limiter // nil: no limit
	log     *slog.Logger
}

// New makes a Tracer.
func New(o Options) *Tracer {
	t := &Tracer{key: o.Key, log: o.Log}
	if o.RateLimit > 0 {
		t.limiter = rate.NewLimiter(rate.Limit(o.RateLimit), o.RateLimit)
	}
	return t
}

// Request is the request of a client that is traced, one after the other.
type Request struct {
	// ID is in hexadecimal, of a client's own id the first maxID bytes; it is "" for a
	// request that is not traced: beyond the rate, of a version without payloads, not
	// one that a cluster executes, or with a full payload.
	ID string

	room []byte // of the last frame that was given an id
}

// keepRoom is the largest frame whose room is kept for the next one.
const keepRoom = 16 << 10

// maxEntries is what the [short] in front of a payload counts to.
const maxEntries = 1<<16 - 1

// maxID is how many bytes of a client's own id are logged. It goes on whole.
const maxID = 100

// Trace logs a request with its id and returns it as it is to go on, valid until
// the next call with r: as it was if the client gave it an id, and otherwise with a
// random UUID.
func (t *Tracer) Trace(r *Request, f frame.Frame, client net.Addr) frame.Frame {
	r.ID = ""
	switch f.Opcode() {
	case frame.OpQuery, frame.OpPrepare, frame.OpExecute, frame.OpBatch:
	default:
		return f
	}
	if f.Version() == frame.V3 || t.limiter != nil && !t.limiter.Allow() {
		return f
	}
	given, entries, err := t.find(f)
	if err != nil {
		return f // whoever reads the request will tell
	}
	if given == nil {
		if entries == maxEntries {
			return f // there is no room for one more
		}
		given = newID()
		if cap(r.room) > keepRoom {
			r.room = nil
		}
		f = t.add(r.room[:0], f, entries+1, given)
		r.room = f
	}
	r.ID = hex.EncodeToString(given[:min(len(given), maxID)])
	t.log.Info("request traced", "request_id", r.ID, "stream", f.Stream(), "opcode", f.Opcode(), "client", client)
	return f
}

// find returns the client's own id, and how many entries its payload has.
func (t *Tracer) find(f frame.Frame) (id []byte, entries uint16, err error) {
	if f.Flags()&frame.FlagCustomPayload == 0 {
		return nil, 0, nil
	}
	c := frame.NewCursor(f.Body())
	entries = c.Short("custom payload")
	for n := entries; n > 0 && !c.Failed(); n-- {
		key := c.String("custom payload")
		value := c.Bytes("custom payload")
		if string(key) == t.key && value != nil {
			return value, entries, nil
		}
	}
	return nil, entries, c.Err()
}

// add appends f with one entry more in its custom payload, which is a [bytes map]
// in front of the body and then has the given number of entries.
func (t *Tracer) add(dst []byte, f frame.Frame, entries uint16, id []byte) frame.Frame {
	rest := f.Body()
	if f.Flags()&frame.FlagCustomPayload != 0 {
		rest = rest[2:] // less the number that it has
	}
	dst = append(dst, f[:frame.HeaderLen]...)
	dst = frame.AppendShort(dst, entries)
	dst = frame.AppendBytes(frame.AppendString(dst, t.key), id)
	dst = append(dst, rest...)
	out := frame.Frame(dst)
	out.SetFlags(f.Flags() | frame.FlagCustomPayload)
	frame.PutLength(out)
	return out
}

// newID is a random UUID (RFC 9562, version 4).
func newID() []byte {
	id := make([]byte, 16)
	_, _ = rand.Read(id) // it never fails
	id[6] = id[6]&0x0F | 0x40
	id[8] = id[8]&0x3F | 0x80
	return id
}
