// Package faultconn is a TCP relay for tests, placed between a proxy and a
// node, whose wire can be made slow, silent, cut or wrong while it is in use.
//
// Floor 5, for tests only; it knows nothing of the protocol. Faults are exact:
// they act at a byte position or at once, never by chance.
//
// Goroutines: one accepts, two serve each connection (one a direction); the
// relay owns them and awaits them at the test's end.
package faultconn

import (
	"context"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"
)

// Direction is one half of every connection.
type Direction uint8

// Up is from the client to the upstream, Down is back.
const (
	Up   Direction = 0
	Down Direction = 1
)

func (d Direction) String() string {
	if d == Up {
		return "up"
	}
	return "down"
}

// Both lists the directions, for faults that act on each.
var Both = []Direction{Up, Down}

// Relay forwards connections to one upstream address. Its methods are safe
// from any goroutine and act on open and on future connections alike, unless
// they say otherwise.
type Relay struct {
	upstream string
	wg       sync.WaitGroup
	stop     context.CancelFunc
	ended    context.Context

	// Guarded by mu, which is never held across I/O.
	mu       sync.Mutex
	addr     netip.AddrPort
	listener net.Listener // nil while refusing
	links    map[*link]struct{}
	accepted int
	wires    [2]wire
	changed  chan struct{} // closed and replaced at each change of the above
}

// wire is the state of one direction.
type wire struct {
	delay     time.Duration
	rate      int // bytes a second; 0 is unlimited
	stalled   bool
	forwarded int64 // bytes, over all connections
	corrupt   int64 // position in forwarded at which one byte is inverted; -1 = none
	each      int64 // and again so many bytes after that; 0 = not again
	cut       int64 // position at which every connection is reset; -1 = none
}

// link is one client connection and its upstream one.
type link struct {
	ends [2]*net.TCPConn // indexed by the direction that reads from it
	done chan struct{}
	once sync.Once
}

func (l *link) close(reset bool) {
	l.once.Do(func() {
		close(l.done)
		for _, c := range l.ends {
			if reset {
				c.SetLinger(0) // makes Close send RST
			}
			c.Close()
		}
	})
}

// New listens on a free port of 127.0.0.1 and forwards to upstream until the
// test ends.
func New(t testing.TB, upstream string) *Relay {
	t.Helper()
	return Listen(t, "127.0.0.1:0", upstream)
}

// Listen is New at a given address, for nodes that must share a port.
func Listen(t testing.TB, address, upstream string) *Relay {
	t.Helper()
	r := &Relay{upstream: upstream, links: map[*link]struct{}{}, changed: make(chan struct{})}
	r.ended, r.stop = context.WithCancel(context.Background())
	for d := range r.wires {
		r.wires[d].corrupt, r.wires[d].cut = -1, -1
	}
	if err := r.listen(address); err != nil {
		t.Fatalf("start relay: %v", err)
	}
	t.Cleanup(func() {
		r.stop()
		r.Stop()
		r.wg.Wait()
	})
	return r
}

// Addr is where the relay listens.
func (r *Relay) Addr() netip.AddrPort {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.addr
}

func (r *Relay) change(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
	close(r.changed)
	r.changed = make(chan struct{})
}

// Delay holds every chunk of a direction back for d before it is forwarded.
// Chunks are forwarded one after the other, so it also limits the rate.
func (r *Relay) Delay(dir Direction, d time.Duration) {
	r.change(func() { r.wires[dir].delay = d })
}

// Limit sets the bandwidth of each connection in bytes a second; 0 is
// unlimited.
func (r *Relay) Limit(dir Direction, bytesPerSecond int) {
	r.change(func() { r.wires[dir].rate = bytesPerSecond })
}

// Stall forwards nothing more of a direction; connections stay open, new ones
// are accepted, and what is sent fills the buffers of the sockets.
func (r *Relay) Stall(dir Direction) { r.change(func() { r.wires[dir].stalled = true }) }

// Resume ends Stall; what waited is forwarded.
func (r *Relay) Resume(dir Direction) { r.change(func() { r.wires[dir].stalled = false }) }

// CorruptAfter inverts the byte that comes n bytes from now in a direction,
// counted over all connections; 0 is the next one.
func (r *Relay) CorruptAfter(dir Direction, n int64) {
	r.change(func() { r.wires[dir].corrupt, r.wires[dir].each = r.wires[dir].forwarded+n, 0 })
}

// CorruptEach inverts the byte that comes n bytes from now in a direction,
// counted over all connections, and every n-th one after it; 0 ends that.
func (r *Relay) CorruptEach(dir Direction, n int64) {
	r.change(func() {
		r.wires[dir].corrupt, r.wires[dir].each = r.wires[dir].forwarded+n, n
		if n == 0 {
			r.wires[dir].corrupt = -1
		}
	})
}

// CutAfter resets all connections once n more bytes of a direction, counted
// over all connections, have been forwarded.
func (r *Relay) CutAfter(dir Direction, n int64) {
	if n == 0 {
		r.Cut()
		return
	}
	r.change(func() { r.wires[dir].cut = r.wires[dir].forwarded + n })
}

// Cut resets every open connection at both ends.
func (r *Relay) Cut() { r.each(func(l *link) { l.close(true) }) }

// Close closes every open connection at both ends without a reset, as far as
// nothing unread is left in them.
func (r *Relay) Close() { r.each(func(l *link) { l.close(false) }) }

// HalfClose ends a direction of every open connection: its receiver reads an
// end of file, the other direction goes on.
func (r *Relay) HalfClose(dir Direction) {
	r.each(func(l *link) {
		l.ends[dir].CloseRead()
		l.ends[1-dir].CloseWrite()
	})
}

func (r *Relay) each(f func(*link)) {
	r.mu.Lock()
	open := make([]*link, 0, len(r.links))
	for l := range r.links {
		open = append(open, l)
	}
	r.mu.Unlock()
	for _, l := range open {
		f(l)
	}
}

// Refuse closes the listener: connects are refused; open connections stay.
func (r *Relay) Refuse() {
	r.change(func() {
		if r.listener != nil {
			r.listener.Close()
			r.listener = nil
		}
	})
}

// Accept ends Refuse at the same address.
func (r *Relay) Accept(t testing.TB) {
	t.Helper()
	if err := r.listen(r.Addr().String()); err != nil {
		t.Fatalf("accept again: %v", err)
	}
}

// Stop is Refuse and Cut.
func (r *Relay) Stop() {
	r.Refuse()
	r.Cut()
}

// Accepted is the number of connections accepted so far.
func (r *Relay) Accepted() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.accepted
}

// Open is the number of connections that are open now.
func (r *Relay) Open() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.links)
}

// Forwarded is the number of bytes of a direction that were forwarded so far.
func (r *Relay) Forwarded(dir Direction) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.wires[dir].forwarded
}

// WaitForwarded waits until at least n bytes of a direction were forwarded in
// all, and fails the test when that takes longer than 15 seconds.
func (r *Relay) WaitForwarded(t testing.TB, dir Direction, n int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(r.ended, 15*time.Second)
	defer cancel()
	for {
		r.mu.Lock()
		got, changed := r.wires[dir].forwarded, r.changed
		r.mu.Unlock()
		if got >= n {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("relay forwarded %d bytes %s, want %d", got, dir, n)
		}
	}
}

func (r *Relay) listen(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	r.change(func() { r.listener, r.addr = l, netip.MustParseAddrPort(l.Addr().String()) })
	r.wg.Add(1)
	go r.accept(l)
	return nil
}

func (r *Relay) accept(l net.Listener) {
	defer r.wg.Done()
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		r.wg.Add(1)
		go func() {
			defer r.wg.Done()
			r.serve(c.(*net.TCPConn))
		}()
	}
}

// serve relays one connection until both directions have ended.
func (r *Relay) serve(client *net.TCPConn) {
	var d net.Dialer
	up, err := d.DialContext(r.ended, "tcp", r.upstream)
	if err != nil {
		client.SetLinger(0)
		client.Close()
		return
	}
	l := &link{ends: [2]*net.TCPConn{Up: client, Down: up.(*net.TCPConn)}, done: make(chan struct{})}
	r.change(func() {
		r.links[l] = struct{}{}
		r.accepted++
	})
	if r.ended.Err() != nil { // the relay stopped before it knew of this link
		l.close(true)
	}
	var wg sync.WaitGroup
	for _, dir := range Both {
		wg.Go(func() { r.pump(l, dir) })
	}
	wg.Wait()
	l.close(false)
	r.change(func() { delete(r.links, l) })
}

// pump forwards one direction of one link.
func (r *Relay) pump(l *link, dir Direction) {
	from, to := l.ends[dir], l.ends[1-dir]
	buf := make([]byte, 16<<10)
	for {
		n, err := from.Read(buf)
		for chunk := buf[:n]; len(chunk) > 0; {
			sent, ok := r.forward(l, dir, to, chunk)
			if !ok {
				return
			}
			chunk = chunk[sent:]
		}
		if err != nil {
			to.CloseWrite() // an end of file travels on; after an error both ends close anyway
			if err != io.EOF {
				l.close(true)
			}
			return
		}
	}
}

// forward sends as much of chunk as the next fault allows.
func (r *Relay) forward(l *link, dir Direction, to *net.TCPConn, chunk []byte) (int, bool) {
	w, ok := r.open(l, dir)
	if !ok {
		return 0, false
	}
	pause := w.delay
	if w.rate > 0 {
		chunk = chunk[:min(len(chunk), max(1, w.rate/100))] // a hundredth of a second at a time
		pause += time.Duration(len(chunk)) * time.Second / time.Duration(w.rate)
	}
	if pause > 0 {
		timer := time.NewTimer(pause)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-l.done:
			return 0, false
		}
		if w, ok = r.open(l, dir); !ok { // it may have been stalled meanwhile
			return 0, false
		}
	}
	cut := false
	r.mu.Lock()
	state := &r.wires[dir]
	if at := state.cut - state.forwarded; state.cut >= 0 && at <= int64(len(chunk)) {
		chunk, cut, state.cut = chunk[:max(at, 0)], true, -1
	}
	for at := state.corrupt - state.forwarded; state.corrupt >= 0 && at < int64(len(chunk)); at += state.each {
		chunk[max(at, 0)] ^= 0xff
		if state.corrupt += state.each; state.each == 0 {
			state.corrupt = -1
		}
	}
	state.forwarded += int64(len(chunk))
	r.mu.Unlock()
	_, err := to.Write(chunk)
	r.change(func() {})
	if cut {
		r.Cut()
		return 0, false
	}
	if err != nil {
		l.close(true)
		return 0, false
	}
	return len(chunk), true
}

// open waits while the direction is stalled.
func (r *Relay) open(l *link, dir Direction) (wire, bool) {
	for {
		r.mu.Lock()
		w, changed := r.wires[dir], r.changed
		r.mu.Unlock()
		if !w.stalled {
			return w, true
		}
		select {
		case <-changed:
		case <-l.done:
			return w, false
		}
	}
}
