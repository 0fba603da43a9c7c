package upstream

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
	"github.com/zdmproject/terraform-provider-zdm/internal/secret"
	"github.com/zdmproject/terraform-provider-zdm/proxy/cluster"
)

// Key tells pools apart: connections that differ in any of these cannot be
// shared. The node is the rest of the key, inside the pool.
type Key struct {
	Username string
	Password secret.String
	Keyspace string
	Version  frame.Version
}

// Back-off of a node that cannot be reached.
const (
	retryMin = 50 * time.Millisecond
	retryMax = time.Second
	// refusedRetry is for a pool whose credentials a node refuses: each attempt
	// costs a check of the password, and may count towards a lock of the account.
	refusedRetry = 30 * time.Second
)

// Pool is the connections of one Key to the nodes of one side: a few for each
// node, opened again when they break. A client holds a reference from Acquire
// until Release.
type Pool struct {
	pools *Pools
	key   Key

	ready atomic.Pointer[[]*Conn] // immutable; swapped under mu
	next  atomic.Uint32

	// Guarded by mu, which is never held across I/O. Lock order: Pools.mu
	// before Pool.mu.
	mu       sync.Mutex
	members  map[string]*member // by node address
	changed  chan struct{}      // closed and replaced when ready or failing changes
	failing  int                // connections whose last attempt failed
	lastErr  error
	verified time.Time // when a login last succeeded
	refused  error     // how a node refused the credentials; nil: none has since one took them
	retryAt  time.Time // when refused credentials may be tried again
	refs     int
	idle     time.Time // since when refs is 0
	closed   bool
}

// member is the connections to one node.
type member struct {
	node  cluster.Node
	lines []*line
	load  load
}

// line is one connection to a node, which is opened again whenever it breaks.
type line struct {
	member *member
	stop   context.CancelFunc // opens no more connections
	end    context.CancelFunc // closes the one that is open
}

func newPool(c *Pools, key Key) *Pool {
	p := &Pool{pools: c, key: key, idle: time.Now(), members: make(map[string]*member), changed: make(chan struct{})}
	p.ready.Store(&[]*Conn{})
	return p
}

// Conn picks a connection: of two neighbours on the ring the one with less in
// flight, so that a slow node gets less; any other one if neither answers, so
// that a dead one gets nothing. It returns nil when none is ready. It does not
// block.
func (p *Pool) Conn() *Conn {
	ready := *p.ready.Load()
	n := uint32(len(ready))
	if n == 0 {
		return nil
	}
	i := p.next.Add(1)
	c := ready[i%n]
	if d := ready[(i+1)%n]; d.better(c) {
		c = d
	}
	if c.Answering() {
		return c
	}
	// From a random place, or the next on the ring would get what these two had.
	for k, at := uint32(0), rand.Uint32N(n); k < n; k++ {
		if d := ready[(at+k)%n]; d.state() < c.state() {
			c = d
		}
	}
	if !c.Usable() {
		return nil // all are about to leave the ring
	}
	return c
}

// connTo is Conn for one node; "" for any.
func (p *Pool) connTo(node string) *Conn {
	if node == "" {
		return p.Conn()
	}
	var found *Conn
	for _, c := range *p.ready.Load() {
		if c.node == node && c.Usable() && (found == nil || c.better(found)) {
			found = c
		}
	}
	return found
}

// Wait returns a ready connection to a node ("" for any), as soon as there is
// one. When every node was tried in vain it returns at once with why; the error
// is a *LostError and nothing was sent.
func (p *Pool) Wait(ctx context.Context, node string) (*Conn, error) {
	for {
		p.mu.Lock()
		changed, err := p.changed, error(nil)
		if c := p.connTo(node); c != nil {
			p.mu.Unlock()
			return c, nil
		}
		if p.closed || p.hopeless() {
			err = fmt.Errorf("%w: %w", ErrNoConnection, p.lastErrLocked())
		}
		p.mu.Unlock()
		if err != nil {
			return nil, &LostError{Side: p.pools.side, Cause: err}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, &LostError{Side: p.pools.side, Cause: fmt.Errorf("%w: %w", ErrNoConnection, context.Cause(ctx))}
		}
	}
}

// Hopeless returns why there will be no connection soon: every node was tried
// in vain. It returns nil while one may come, or is there.
func (p *Pool) Hopeless() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(*p.ready.Load()) > 0 || !p.closed && !p.hopeless() {
		return nil
	}
	return &LostError{Side: p.pools.side, Cause: fmt.Errorf("%w: %w", ErrNoConnection, p.lastErrLocked())}
}

func (p *Pool) hopeless() bool {
	total := 0
	for _, m := range p.members {
		total += len(m.lines)
	}
	return total > 0 && p.failing >= total
}

func (p *Pool) lastErrLocked() error {
	if p.lastErr == nil {
		return errors.New("no node is known")
	}
	return p.lastErr
}

// Release gives the reference back. A pool without any is closed later.
func (p *Pool) Release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refs--
	if p.refs == 0 {
		p.idle = time.Now()
	}
}

// update starts and stops members so that they are those of the topology. adopt
// is a connection that was opened already, to adoptNode; nil for none.
func (p *Pool) update(nodes []cluster.Node, adoptNode string, adopt net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		if adopt != nil {
			_ = adopt.Close()
		}
		return
	}
	want := make(map[string]bool, len(nodes))
	for _, n := range nodes {
		addr := n.Addr.String()
		want[addr] = true
		if p.members[addr] != nil {
			continue
		}
		m := &member{node: n}
		p.members[addr] = m
		for range p.pools.opts.ConnectionsPerNode {
			var first net.Conn
			if addr == adoptNode {
				first, adopt = adopt, nil
			}
			p.open(m, first)
		}
	}
	for addr, m := range p.members {
		if !want[addr] {
			p.retire(m.lines...)
			delete(p.members, addr)
		}
	}
	if adopt != nil {
		_ = adopt.Close() // the login was what it was for
	}
	p.broadcast()
}

// open adds a line to a node; first is its connection if there is one already. mu
// is held.
func (p *Pool) open(m *member, first net.Conn) {
	life, end := context.WithCancel(p.pools.ctx)
	ctx, stop := context.WithCancel(life)
	l := &line{member: m, stop: stop, end: end}
	m.lines = append(m.lines, l)
	p.pools.wg.Go(func() { p.keep(ctx, life, l, first) })
}

// retire lets lines go that work still: they get no more requests, and have the
// time of one to answer what they have. mu is held.
func (p *Pool) retire(lines ...*line) {
	for _, l := range lines {
		l.stop()
		time.AfterFunc(p.pools.opts.RequestTimeout, l.end)
	}
	p.ready.Store(without(*p.ready.Load(), func(c *Conn) bool { return slices.Contains(lines, c.line) }))
}

// shut closes every connection. Requests in flight are told as lost.
func (p *Pool) shut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for addr, m := range p.members {
		for _, l := range m.lines {
			l.end()
		}
		delete(p.members, addr)
	}
	p.broadcast()
}

func (p *Pool) broadcast() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// keep holds one connection to a node open until ctx ends, and lets the last one
// live until life does, which is not before ctx. It is the reader of the
// connection while there is one.
func (p *Pool) keep(ctx, life context.Context, l *line, nc net.Conn) {
	m := l.member
	wait, failing := retryMin, false
	for ctx.Err() == nil {
		var err error
		if nc == nil {
			nc, err = p.connect(ctx, m.node)
		}
		if err != nil {
			p.note(ctx, m, &failing, err)
			wait = pauseAfter(err, wait)
			p.pause(ctx, &wait)
			continue
		}
		opened := time.Now()
		c := newConn(nc, ConnOptions{
			Side: p.pools.side, Node: m.node.Name(), Keyspace: p.key.Keyspace, Version: p.key.Version,
			Timeout: p.pools.opts.RequestTimeout, Meter: p.pools.opts.Meter(p.pools.side, m.node.Name()), Line: l,
		})
		nc = nil
		if failing {
			p.pools.control.Reached()
		}
		p.note(ctx, m, &failing, nil)
		p.add(ctx, c)
		err = c.serve(life, func() { p.remove(c) })
		if ctx.Err() == nil {
			p.pools.opts.Log.Warn("node connection lost", "cluster", p.pools.side, "node", c.node, "cause", err)
		}
		if time.Since(opened) > retryMax {
			wait = retryMin
			continue
		}
		// A node that takes logins and then closes must not get them in a loop.
		p.pause(ctx, &wait)
	}
	p.note(context.Background(), m, &failing, nil)
	if nc != nil {
		_ = nc.Close()
	}
}

// connect opens a connection, unless the node is to be spared that.
func (p *Pool) connect(ctx context.Context, n cluster.Node) (net.Conn, error) {
	if err := p.spare(time.Now()); err != nil {
		return nil, err
	}
	nc, err := p.pools.connect(ctx, n, p.key)
	if err != nil && ctx.Err() != nil {
		return nil, err // the end of the pool is no failure of the node
	}
	p.tried(time.Now(), err)
	if err != nil {
		p.pools.opts.ConnectFailed(p.pools.side, n.Name())
	}
	return nc, err
}

// spare returns the refusal of the credentials if it is too early to try them
// again. Otherwise it is the caller's turn, and nobody else's for a while.
func (p *Pool) spare(now time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refused != nil && now.Before(p.retryAt) {
		return p.refused
	}
	p.retryAt = now.Add(refusedRetry)
	return nil
}

// tried notes what an attempt says of the credentials.
func (p *Pool) tried(now time.Time, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case err == nil:
		p.refused = nil
	case badCredentials(err):
		p.refused, p.retryAt, p.verified = err, now.Add(refusedRetry), time.Time{}
	}
}

// pause waits before the next attempt, half fixed, half by chance: the
// connections of many pools to one node do not come back in one moment.
func (p *Pool) pause(ctx context.Context, wait *time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(*wait/2 + rand.N(*wait/2)):
	}
	*wait = min(*wait*2, retryMax)
}

// pauseAfter is how long to wait after a failed attempt, if it is wait otherwise.
func pauseAfter(err error, wait time.Duration) time.Duration {
	if badCredentials(err) {
		return refusedRetry
	}
	return wait
}

func badCredentials(err error) bool {
	var refused *cluster.NodeError
	return errors.As(err, &refused) && refused.Code == frame.ErrBadCredentials
}

// note records the outcome of an attempt.
func (p *Pool) note(ctx context.Context, m *member, failing *bool, err error) {
	if err != nil && ctx.Err() != nil {
		return // the end of the pool is no failure of the node
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case err != nil && !*failing:
		p.failing++
	case err == nil && *failing:
		p.failing--
	}
	*failing = err != nil
	if err != nil {
		p.lastErr = err
	}
	p.broadcast()
}

// add puts c on the ring, unless its node is to get no more requests.
func (p *Pool) add(ctx context.Context, c *Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if ctx.Err() != nil {
		return
	}
	old := *p.ready.Load()
	list := append(make([]*Conn, 0, len(old)+1), old...)
	// At a random place, so that neighbours are of different nodes.
	i := rand.N(len(list) + 1)
	list = append(list, nil)
	copy(list[i+1:], list[i:])
	list[i] = c
	p.ready.Store(&list)
	p.broadcast()
}

func (p *Pool) remove(c *Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ready.Store(without(*p.ready.Load(), func(o *Conn) bool { return o == c }))
	p.broadcast()
}

// without copies a ring without the connections that are gone.
func without(ring []*Conn, gone func(*Conn) bool) *[]*Conn {
	list := make([]*Conn, 0, len(ring))
	for _, c := range ring {
		if !gone(c) {
			list = append(list, c)
		}
	}
	return &list
}
