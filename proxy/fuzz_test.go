package proxy_test

import (
	"bytes"
	"encoding/binary"
	"maps"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
	"github.com/zdmproject/terraform-provider-zdm/internal/cqltest"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// What is true of any input: each frame that a client sends gets exactly one
// answer on its stream, or the connection is closed.

// maxThrown bounds the frames of one connection.
const maxThrown = 64

// thrower is a proxy for inputs of any kind.
type thrower struct {
	*world
	version frame.Version
	bodies  []thrown // well-formed requests to start from
}

type thrown struct {
	op   frame.Opcode
	body []byte
}

func newThrower(t testing.TB, v frame.Version, settings map[string]string) *thrower {
	t.Helper()
	// The nodes get what the proxy lets pass, and some of that they cannot read.
	odd := cqltest.Options{Lenient: true, Salt: "a", Versions: everyProtocol}
	other := cqltest.Options{Lenient: true, Salt: "other", Versions: everyProtocol}
	all := map[string]string{"proxy_request_timeout_ms": "2000"}
	maps.Copy(all, settings)
	w := start(t, phase.DualRead, odd, other, all)
	const withNow, nested = "INSERT INTO ks.t (k, u) VALUES (?, now())", "INSERT INTO ks.t (k, l) VALUES (?, [now()])"
	w.describe(withNow, nil, "k")
	w.describe("INSERT INTO ks.t (k, u) VALUES (?, ?)", nil, "k", "u")
	w.describe(nested, nil, "k")
	c := cqltest.Dial(t, w.addr, cqltest.Login{})
	read, write, hidden, literal := prepare(t, c, sel), prepare(t, c, insert), prepare(t, c, withNow), prepare(t, c, nested)
	own := prepare(t, c, "SELECT rpc_address FROM system.local WHERE key = ?")
	th := &thrower{world: w, version: v}
	add := func(op frame.Opcode, parts ...[]byte) {
		th.bodies = append(th.bodies, thrown{op, bytes.Join(parts, nil)})
	}
	text := func(s string) []byte { return frame.AppendLongString(nil, s) }
	id := func(b []byte) []byte { return frame.AppendShortBytes(nil, b) }
	wide, told := v != frame.V3 && v != frame.V4, v == frame.V5 || v == frame.DSE2
	params := func(flags byte, rest ...byte) []byte { // at consistency ONE
		p := []byte{0, 1}
		if wide {
			p = append(p, 0, 0, 0)
		}
		return append(append(p, flags), rest...)
	}
	one := params(0)
	value := params(1, 0, 1, 0, 0, 0, 5, 'l', 'o', 'c', 'a', 'l')
	var prepareFlags, resultID []byte
	if told {
		prepareFlags, resultID = make([]byte, 4), id([]byte("columns of long ago"))
	}
	for _, s := range []string{insert, withNow, nested, sel, "USE ks", "USE", "SELECT * FROM system.local", "SELECT * FROM system.peers_v2", "DESCRIBE TABLES", "TRUNCATE ks.t", "BEGIN BATCH " + insert + " APPLY BATCH", ""} {
		add(frame.OpQuery, text(s), one)
		add(frame.OpPrepare, text(s), prepareFlags)
	}
	// A paging state: with and without a tag of the proxy's.
	add(frame.OpQuery, text(sel), params(0x0C, 0, 0, 0, 5, 0, 0, 0, 8), []byte("zdm\x01\x01\xfestate")[:8])
	add(frame.OpQuery, text(sel), params(0x08, 0, 0, 0, 2), []byte("zd"))
	for _, i := range [][]byte{read, write, hidden, literal, own, []byte("nobody prepared this")} {
		add(frame.OpExecute, id(i), resultID, one)
		add(frame.OpExecute, id(i), resultID, params(2)) // skip the metadata
		add(frame.OpExecute, id(i), resultID, value)
	}
	for _, kind := range []byte{0, 1, 2, 9} {
		add(frame.OpBatch, []byte{kind, 0, 2, 0}, text(insert), []byte{0, 0, 1}, id(write), []byte{0, 0}, one)
	}
	add(frame.OpBatch, []byte{0, 0, 0}, one)
	for _, i := range [][]byte{hidden, literal} {
		add(frame.OpBatch, []byte{0, 0, 1, 1}, id(i), []byte{0, 1, 0, 0, 0, 1, 'k'}, one)
		full := bytes.Repeat([]byte{0xFF}, 2+4*(1<<16-1)) // as many values as can be, all null
		add(frame.OpBatch, []byte{0, 0, 1, 1}, id(i), full, one)
	}
	add(frame.OpRegister, frame.AppendStringList(nil, []string{"SCHEMA_CHANGE", "STATUS_CHANGE"}))
	add(frame.OpOptions)
	add(frame.OpStartup, []byte{0, 0})
	add(frame.OpAuthResponse, []byte{0, 0, 0, 0})
	return th
}

// frames makes at most maxThrown frames out of a script, on streams 1, 2, ... A
// record of it is
//
//	kind    1 byte   one of bodies, or for 0xF0 and above an opcode of any kind
//	flags   1 byte   of the header
//	cut     1 byte   bytes that are missing at the end of the body; 0x80 and above: added
//	at, xor 2 bytes  what is changed in the body
func (th *thrower) frames(script []byte) (out []byte, n int) {
	for ; len(script) >= 5 && n < maxThrown; script = script[5:] {
		kind, flags, cut, at, xor := script[0], script[1], int(script[2]), int(script[3]), script[4]
		b := th.bodies[int(kind)%len(th.bodies)]
		op, body := b.op, bytes.Clone(b.body)
		if kind >= 0xF0 {
			op = frame.Opcode(xor)
		}
		if cut < 0x80 {
			body = body[:max(0, len(body)-cut)]
		} else {
			body = append(body, make([]byte, cut-0x80)...)
		}
		if len(body) > 0 {
			body[at%len(body)] ^= xor
		}
		n++
		out = frame.AppendHeader(out, th.version, false, flags, int16(n), op, len(body))
		out = append(out, body...)
	}
	return out, n
}

// throw sends what a script says in pieces of any size, and checks the answers.
func (th *thrower) throw(t *testing.T, script []byte) {
	t.Helper()
	nc, in := rawClientOf(t, th.addr, th.version)
	_ = nc.SetDeadline(time.Now().Add(8 * time.Second))
	defer nc.Close()
	out, n := th.frames(script)
	if th.version == frame.V5 {
		out = frame.AppendSegments(nil, out, false)
	}
	go func() {
		r := rand.New(rand.NewPCG(uint64(len(script)), 1))
		for len(out) > 0 {
			k := 1 + r.IntN(len(out))
			if _, err := nc.Write(out[:k]); err != nil {
				return // the proxy has closed
			}
			out = out[k:]
		}
	}()
	answered := make(map[int16]bool)
	for len(answered) < n {
		f, err := in.Next()
		switch {
		case err != nil:
			if e, ok := err.(net.Error); ok && e.Timeout() {
				t.Fatalf("%d of %d frames were answered, and the connection is open", len(answered), n)
			}
			return // closed
		case !f.IsResponse() || f.Version() != th.version:
			t.Fatalf("got % x, want a response in version %d", f, th.version)
		case f.Opcode() == frame.OpEvent && f.Stream() == -1:
			continue
		case f.Stream() == 0:
			e, err := frame.ParseError(f.Body(), th.version)
			if err != nil || f.Opcode() != frame.OpError || e.Code != frame.ErrProtocol {
				t.Fatalf("got % x on stream 0, where nothing was asked; want a protocol error", f)
			}
			// The proxy closes; what it had sent to the nodes may still be answered.
			n = maxThrown + 1
			continue
		case f.Stream() < 1 || int(f.Stream()) > n:
			t.Fatalf("an answer on stream %d, where nothing was asked", f.Stream())
		case answered[f.Stream()]:
			t.Fatalf("a second answer on stream %d: % x", f.Stream(), f)
		}
		answered[f.Stream()] = true
		if _, err := frame.SplitResponse(f); err != nil {
			t.Fatalf("stream %d: %v in % x", f.Stream(), err, f)
		}
	}
}

// settled fails if something of the clients is left.
func (th *thrower) settled(t testing.TB) {
	t.Helper()
	eventually(t, "no client and no request is left", func() bool {
		st := th.srv.Status()
		return st.Clients == 1 && st.InFlight == 0 // the one that prepared
	})
}

func TestEveryFrameHasOneAnswerOrTheConnectionIsClosed(t *testing.T) {
	t.Parallel()
	for _, v := range []frame.Version{frame.V3, frame.V4, frame.V5, frame.DSE1, frame.DSE2} {
		t.Run(v.String(), func(t *testing.T) {
			t.Parallel()
			throwMany(t, newThrower(t, v, nil))
		})
		t.Run(v.String()+", functions replaced", func(t *testing.T) {
			t.Parallel()
			throwMany(t, newThrower(t, v, replacingAll))
		})
	}
}

var replacingAll = map[string]string{"replace_cql_functions": "true", "replace_all_cql_functions": "true"}

func throwMany(t *testing.T, th *thrower) {
	t.Helper()
	r := rand.New(rand.NewPCG(7, 1))
	for range 100 {
		script := make([]byte, 5*(1+r.IntN(maxThrown)))
		for i := 0; i < len(script); i += 5 {
			// Nine of ten are well-formed, so that a connection lasts.
			script[i] = byte(r.IntN(0xF0))
			if r.IntN(10) == 0 {
				binary.BigEndian.PutUint32(script[i+1:], r.Uint32())
				script[i] = byte(r.IntN(256))
			}
		}
		th.throw(t, script)
	}
	th.settled(t)
}

func FuzzFrames(f *testing.F) {
	th := newThrower(f, frame.V4, replacingAll)
	for i := range th.bodies {
		f.Add([]byte{byte(i), 0, 0, 0, 0, byte(i + 1), frame.FlagTracing, 0, 0, 0})
		f.Add([]byte{byte(i), 0, 1, 0, 0, byte(i), frame.FlagCustomPayload, 0, 0, 0, byte(i), 0, 0, 1, 0xFF})
	}
	f.Add([]byte{0xFF, 0, 0, 0, 0xFF, 0xF0, frame.FlagCompressed, 0, 0, 7})
	f.Fuzz(func(t *testing.T, script []byte) { th.throw(t, script) })
}
