package session

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
	"github.com/zdmproject/terraform-provider-zdm/proxy/upstream"
)

// scope is the session's pools for one keyspace.
type scope struct {
	s        *Session
	keyspace string
	pools    [2]atomic.Pointer[upstream.Pool] // set once, under mu

	mu       sync.Mutex // never held across I/O
	released bool
}

func (s *Session) newScope(keyspace string) *scope { return &scope{s: s, keyspace: keyspace} }

// scopeFor returns the session's scope of a keyspace. Serve goroutine only.
func (s *Session) scopeFor(keyspace string) *scope {
	for _, sc := range s.scopes {
		if sc.keyspace == keyspace {
			return sc
		}
	}
	sc := s.newScope(keyspace)
	s.scopes = append(s.scopes, sc)
	return sc
}

// forget gives up all scopes but the first n, which nothing uses. Serve goroutine
// only.
func (s *Session) forget(n int) {
	for _, sc := range s.scopes[n:] {
		sc.release()
	}
	s.scopes = slices.Delete(s.scopes, n, len(s.scopes))
}

// open makes sure that the scope has its pool of a side. With fresh the login
// is checked anew.
func (sc *scope) open(ctx context.Context, side phase.Side, fresh bool) (*upstream.Pool, error) {
	if p := sc.pools[side].Load(); p != nil && !fresh {
		return p, nil
	}
	key := sc.s.keys[side]
	key.Keyspace = sc.keyspace
	p, err := sc.s.env.Clusters[side].Acquire(ctx, key, fresh)
	if err != nil {
		return nil, err
	}
	sc.mu.Lock()
	defer sc.mu.Unlock()
	mine := sc.pools[side].Load()
	switch {
	case mine != nil:
		p.Release()
		return mine, nil
	case sc.released: // the session has ended meanwhile; nobody would release it
		p.Release()
		return nil, net.ErrClosed
	}
	sc.pools[side].Store(p)
	return p, nil
}

// connect waits for a connection of a side.
func (sc *scope) connect(ctx context.Context, side phase.Side) (*upstream.Conn, error) {
	return sc.connectTo(ctx, side, "")
}

// connectTo is connect to one node; "" for any.
func (sc *scope) connectTo(ctx context.Context, side phase.Side, node string) (*upstream.Conn, error) {
	p, err := sc.open(ctx, side, false)
	if err != nil {
		var lost *upstream.LostError
		if !errors.As(err, &lost) {
			err = &upstream.LostError{Side: side, Cause: err}
		}
		return nil, err
	}
	return p.Wait(ctx, node)
}

// gone reports whether the session has given its pools back.
func (sc *scope) gone() bool {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	return sc.released
}

func (sc *scope) release() {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	sc.released = true
	for _, side := range phase.Sides {
		if p := sc.pools[side].Load(); p != nil {
			p.Release()
		}
	}
}
