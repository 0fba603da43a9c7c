package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/datastax/go-cassandra-native-protocol/message"
	"github.com/datastax/go-cassandra-native-protocol/primitive"
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

// connectLoad opens the clients of a row, which have prepared their statements.
func connectLoad(r row, at netip.AddrPort) (*load, error) {
	l, err := newLoop()
	if err != nil {
		return nil, err
	}
	w := &load{loop: l, clients: map[*socket]*client{}}
	l.frame = w.answered
	l.ended = func(_ *socket, err error) { w.err = fmt.Errorf("connection ended: %w", err) }
	for range r.clients {
		if err := w.connect(r, at); err != nil {
			l.close()
			return nil, err
		}
	}
	return w, nil
}

func (w *load) connect(r row, at netip.AddrPort) error {
	c, err := dialClient(at, r.speech)
	if err != nil {
		return err
	}
	requests, err := c.requests(tables[r.table], r.simple)
	if err != nil {
		c.close()
		return err
	}
	if r.readsOnly {
		requests.write = requests.read
	}
	s, err := w.loop.add(c.fd)
	if err != nil {
		c.close()
		return err
	}
	s.source, s.pack = c.source, c.pack
	if c.wire != nil {
		c.wire.gather = true
	}
	requests.writes = len(w.clients)%2 == 0
	w.clients[s] = requests
	return nil
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
	if !isResult(f) {
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

// run goes on for a while, and on a busy machine until two answers have come, of
// which one was asked for meanwhile. It returns how many there were.
func (w *load) run(d time.Duration) (int64, error) {
	before := w.done
	end := time.Now().Add(d)
	for last := end.Add(20 * time.Second); w.err == nil; {
		now := time.Now()
		if now.After(last) || now.After(end) && w.done >= before+2 {
			break
		}
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

// requests are the two that a client sends in turn.
func (c *caller) requests(t table, simple bool) (*client, error) {
	key, payload := strings.Repeat("k", 16), string(value(t.value))
	if simple {
		options := &message.QueryOptions{Consistency: primitive.ConsistencyLevelLocalQuorum}
		literal := func(text string) []byte {
			for _, v := range append([]string{key}, slices.Repeat([]string{payload}, t.columns)...) {
				text = strings.Replace(text, "?", "'"+v+"'", 1)
			}
			return c.request(&message.Query{Query: text, Options: options})
		}
		return &client{read: literal(t.read()), write: literal(t.write())}, nil
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
		options := &message.QueryOptions{Consistency: primitive.ConsistencyLevelLocalQuorum, SkipMetadata: t.columns == 1}
		for _, v := range values {
			options.PositionalValues = append(options.PositionalValues, primitive.NewValue([]byte(v)))
		}
		return c.request(&message.Execute{QueryId: p.PreparedQueryId, ResultMetadataId: p.ResultMetadataId, Options: options}), nil
	}
	read, err := execute(t.read(), key)
	if err != nil {
		return nil, err
	}
	write, err := execute(t.write(), append([]string{key}, slices.Repeat([]string{payload}, t.columns)...)...)
	return &client{read: read, write: write}, err
}
