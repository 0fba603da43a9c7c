package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/datastax/go-cassandra-native-protocol/message"
	"github.com/datastax/go-cassandra-native-protocol/primitive"
	"golang.org/x/sys/unix"
)

// load is a closed loop: each client has a fixed number of requests in flight
// and sends the next one when an answer comes, reads and writes in turn.
type load struct {
	loop     *loop
	clients  map[*socket]*client
	burst    int64 // requests that go out in one write; 0: all that one read let go
	stopping bool
	err      error
	done     int64 // answers
	open     int   // requests without an answer

	// With one request in flight in all, how long each one took.
	timed bool
	sent  time.Time
	took  []time.Duration
}

type client struct {
	read, write []byte // whole frames; the stream id is patched in
	writes      bool   // the next request is a write
}

// connectLoad opens clients that have prepared their statements.
func connectLoad(at netip.AddrPort, clients int, simple bool) (*load, error) {
	l, err := newLoop()
	if err != nil {
		return nil, err
	}
	w := &load{loop: l, clients: map[*socket]*client{}}
	l.frame = w.answered
	l.ended = func(_ *socket, err error) { w.err = fmt.Errorf("connection ended: %w", err) }
	for range clients {
		c, err := dialClient(at)
		if err != nil {
			l.close()
			return nil, err
		}
		requests, err := c.requests(simple)
		if err != nil {
			c.close()
			l.close()
			return nil, err
		}
		s, err := l.add(int(c))
		if err != nil {
			l.close()
			return nil, err
		}
		requests.writes = len(w.clients)%2 == 0
		w.clients[s] = requests
	}
	return w, nil
}

func (w *load) start(inFlight int) {
	for s, c := range w.clients {
		for stream := range inFlight {
			w.send(s, c, byte(stream>>8), byte(stream))
		}
		if err := w.loop.flush(s); err != nil {
			w.err = err
		}
	}
}

func (w *load) send(s *socket, c *client, hi, lo byte) {
	f := c.read
	if c.writes {
		f = c.write
	}
	c.writes = !c.writes
	at := len(s.out)
	s.out = append(s.out, f...)
	s.out[at+2], s.out[at+3] = hi, lo
	w.open++
	if w.timed {
		w.sent = time.Now()
	}
}

func (w *load) answered(s *socket, f []byte) {
	if primitive.OpCode(f[4]) != primitive.OpCodeResult {
		w.err = fmt.Errorf("answer %s: %q", primitive.OpCode(f[4]), f[headerLen:])
		return
	}
	if w.timed {
		w.took = append(w.took, time.Since(w.sent))
	}
	w.done++
	w.open--
	if !w.stopping {
		w.send(s, w.clients[s], f[2], f[3])
		if w.burst > 0 && w.done%w.burst == 0 {
			if err := w.loop.flush(s); err != nil {
				w.err = err
			}
		}
	}
}

// run goes on for a while and returns how many answers came.
func (w *load) run(d time.Duration) (int64, error) {
	before := w.done
	for end := time.Now().Add(d); time.Now().Before(end) && w.err == nil; {
		if err := w.loop.poll(20); err != nil {
			return 0, err
		}
	}
	return w.done - before, w.err
}

// stop waits for the answers that are due.
func (w *load) stop() error {
	w.stopping = true
	for end := time.Now().Add(10 * time.Second); w.open > 0 && w.err == nil; {
		if time.Now().After(end) {
			return fmt.Errorf("%d requests were never answered", w.open)
		}
		if err := w.loop.poll(20); err != nil {
			return err
		}
	}
	return w.err
}

// median of what timed requests took.
func (w *load) median() time.Duration {
	if len(w.took) == 0 {
		return 0
	}
	slices.Sort(w.took)
	return w.took[len(w.took)/2]
}

// clientFD is a blocking connection during its handshake.
type clientFD int

func dialClient(at netip.AddrPort) (clientFD, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	c := clientFD(fd)
	limit := unix.NsecToTimeval((20 * time.Second).Nanoseconds())
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit)
	if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: at.Addr().As4(), Port: int(at.Port())}); err != nil {
		c.close()
		return -1, fmt.Errorf("connect to %s: %w", at, err)
	}
	answer, err := c.ask(message.NewStartup())
	if _, ok := answer.(*message.Authenticate); ok {
		answer, err = c.ask(&message.AuthResponse{Token: []byte("\x00bench\x00bench")})
	}
	if refusal, ok := answer.(message.Error); ok {
		err = errors.New(refusal.GetErrorMessage())
	}
	if err != nil {
		c.close()
		return -1, fmt.Errorf("log in to %s: %w", at, err)
	}
	return c, nil
}

func (c clientFD) close() { unix.Close(int(c)) }

func (c clientFD) Read(b []byte) (int, error) {
	n, err := unix.Read(int(c), b)
	for err == unix.EINTR { // a read with a time limit is not restarted by the kernel
		n, err = unix.Read(int(c), b)
	}
	if n == 0 && err == nil {
		return 0, unix.ECONNRESET
	}
	return max(n, 0), err
}

func (c clientFD) ask(m message.Message) (message.Message, error) {
	if _, err := unix.Write(int(c), encode(m)); err != nil {
		return nil, err
	}
	f, err := codec.DecodeFrame(c)
	if err != nil {
		return nil, err
	}
	return f.Body.Message, nil
}

func (c clientFD) requests(simple bool) (*client, error) {
	key, payload := strings.Repeat("k", 16), strings.Repeat("v", payloadLen)
	if simple {
		options := &message.QueryOptions{Consistency: primitive.ConsistencyLevelLocalQuorum}
		return &client{
			read:  encode(&message.Query{Query: strings.Replace(readText, "?", "'"+key+"'", 1), Options: options}),
			write: encode(&message.Query{Query: strings.Replace(writeText, "?, ?", "'"+key+"', '"+payload+"'", 1), Options: options}),
		}, nil
	}
	execute := func(text string, values ...string) ([]byte, error) {
		answer, err := c.ask(&message.Prepare{Query: text})
		if err != nil {
			return nil, fmt.Errorf("prepare: %w", err)
		}
		p, ok := answer.(*message.PreparedResult)
		if !ok {
			return nil, fmt.Errorf("prepare: %v", answer)
		}
		options := &message.QueryOptions{Consistency: primitive.ConsistencyLevelLocalQuorum, SkipMetadata: true}
		for _, v := range values {
			options.PositionalValues = append(options.PositionalValues, primitive.NewValue([]byte(v)))
		}
		return encode(&message.Execute{QueryId: p.PreparedQueryId, Options: options}), nil
	}
	read, err := execute(readText, key)
	if err != nil {
		return nil, err
	}
	write, err := execute(writeText, key, payload)
	if err != nil {
		return nil, err
	}
	if n := binary.BigEndian.Uint32(write[5:]); n < payloadLen || !bytes.Contains(write, []byte(payload)) {
		return nil, fmt.Errorf("write of %d bytes does not hold its payload", n)
	}
	return &client{read: read, write: write}, nil
}
