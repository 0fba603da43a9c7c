package session

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
	"github.com/zdmproject/terraform-provider-zdm/cql/scan"
	"github.com/zdmproject/terraform-provider-zdm/internal/secret"
	"github.com/zdmproject/terraform-provider-zdm/proxy/control"
	"github.com/zdmproject/terraform-provider-zdm/proxy/drivers"
	"github.com/zdmproject/terraform-provider-zdm/proxy/events"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
	"github.com/zdmproject/terraform-provider-zdm/proxy/prepared"
	"github.com/zdmproject/terraform-provider-zdm/proxy/upstream"
)

// Mover gives the sessions of a draining server away.
type Mover struct {
	env  *Env
	send Move

	mu   sync.Mutex
	news *prepared.News // for the other process
}

var (
	errMoved      = errors.New("moved to the process that takes over")
	errNotMovable = errors.New("only a plain TCP connection can move")
)

// NewMover makes the sessions of e that drain from now on move by send.
func NewMover(e *Env, send Move) *Mover {
	return &Mover{env: e, send: send, news: prepared.NewNews(e.Cache)}
}

// Start has sessions that are drained move, and not be closed.
func (m *Mover) Start() { m.env.mover.Store(m) }

// First tells the other process what it will need, and returns when it has it, or
// could not have it within a time.
func (m *Mover) First(sessions []*Session, waiting [2][][]byte, within time.Duration) error {
	message := control.Message{Statements: m.news.Carry(), Waiting: waiting, Timestamp: m.env.Timestamps.Last(), WarmWithin: within}
	type kind struct {
		version  frame.Version
		keyspace string
		keys     [2]upstream.Key
		asOwn    phase.Set
	}
	seen := make(map[kind]bool)
	for _, ses := range sessions {
		sc := ses.scope.Load()
		if sc == nil {
			continue
		}
		k := kind{ses.client.Version, sc.keyspace, ses.keys, ses.asOwn}
		if !seen[k] {
			seen[k] = true
			message.Warm = append(message.Warm, ses.describe(sc))
		}
	}
	return m.send(message, nil)
}

// give moves a session that has nothing in flight and nothing to write.
func (m *Mover) give(s *Session) error {
	tcp, ok := s.client.Socket().(*net.TCPConn)
	if !ok {
		return errNotMovable
	}
	st := control.Session{Version: uint8(s.client.Version)}
	switch s.state {
	case ready:
		st = s.describe(s.scope.Load())
		st.Handshake = control.Established
	case started:
		st.Handshake = control.Authenticating
	}
	st.Driver, st.Compression, st.Unread = s.driver.String(), s.client.Compression().String(), s.client.Unread()
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.send(control.Message{Session: &st, Statements: m.news.Carry(), Timestamp: m.env.Timestamps.Last()}, tcp)
}

// describe is what an established session is to the clusters. It may be called
// from any goroutine once there is a scope.
func (s *Session) describe(sc *scope) control.Session {
	st := control.Session{Version: uint8(s.client.Version), Keyspace: sc.keyspace, Events: s.Wants(events.Schema), StatusEvents: s.Wants(events.Status)}
	for _, side := range phase.Sides {
		if s.asOwn.Has(side) {
			st.Logins[side].Configured = true
			continue
		}
		st.Logins[side] = control.Login{Username: s.keys[side].Username, Password: s.keys[side].Password.Reveal()}
	}
	return st
}

// keysOf are the logins that a session comes with, and where they are this
// process's own.
func (e *Env) keysOf(st *control.Session) (keys [2]upstream.Key, asOwn phase.Set) {
	for _, side := range phase.Sides {
		l := &st.Logins[side]
		if l.Configured {
			keys[side] = e.configured(side, frame.Version(st.Version))
			asOwn |= phase.Of(side)
			continue
		}
		keys[side] = upstream.Key{Username: l.Username, Password: secret.New(l.Password), Version: frame.Version(st.Version)}
	}
	return keys, asOwn
}

// Warm opens what sessions of a kind will use, so that their first request
// finds it.
func (e *Env) Warm(ctx context.Context, needed phase.Set, st *control.Session) error {
	keys, _ := e.keysOf(st)
	for _, side := range needed.Each() {
		key := keys[side]
		key.Keyspace = st.Keyspace
		p, err := e.Clusters[side].Acquire(ctx, key, false)
		if err != nil {
			return err
		}
		_, err = p.Wait(ctx, "")
		p.Release() // it stays open long enough for the sessions to come
		if err != nil {
			return err
		}
	}
	return nil
}

// Learn takes over a prepared statement.
func (e *Env) Learn(c *control.Statement) {
	scanned := scan.Scan([]byte(c.Text))
	st := prepared.Carried(c, e.Replace, &scanned)
	if st == nil {
		return
	}
	if c.Own {
		tables := e.systemTables()
		sel, problem := parseVirtual(&scanned, st.Class)
		if tables == nil || problem != nil {
			return // the client will be told UNPREPARED, and prepares it again
		}
		p, _, problem := tables.Prepare(sel, c.Text, c.Keyspace, frame.V4)
		if problem != nil || string(p.ID[:]) != string(c.ID) {
			return
		}
		st.Own = p
	}
	e.Cache.Put(st)
}

// move ends a drained session in one of two ways: its client goes on with the
// process that takes over, or is closed.
func (s *Session) move() error {
	m := s.env.mover.Load()
	if m == nil {
		s.env.Metrics.Drained()
		return errDrained
	}
	if err := m.give(s); err != nil {
		s.env.Log.Warn("client not moved; closed", "client", s.client.RemoteAddr(), "cause", err)
		// Perhaps the other process has it all the same: this one lets go of its
		// copy of the socket and touches the connection no more.
		return err
	}
	s.env.Metrics.Moved()
	return errMoved
}

// Move hands one message to the process that takes over, with the client's
// socket if the message has a session. After a nil error the socket is the
// other process's.
type Move func(control.Message, *net.TCPConn) error

// Adopt makes the session of a client that another process has served. After an
// error nc is still the caller's.
func Adopt(e *Env, nc net.Conn, st *control.Session) (*Session, error) {
	compression, ok := frame.ParseCompression(st.Compression)
	if !ok {
		return nil, fmt.Errorf("compression %q is not known", st.Compression)
	}
	s := New(e, nc)
	s.driver = drivers.Parse(st.Driver)
	s.client.Resume(st.Unread, frame.Version(st.Version), st.Handshake != control.Fresh, compression)
	switch st.Handshake {
	case control.Authenticating:
		s.state = started
	case control.Established:
		s.state = ready
		s.keys, s.asOwn = e.keysOf(st)
		s.events.Store(uint32(events.Of(st.Events, st.StatusEvents)))
		s.scope.Store(s.scopeFor(st.Keyspace))
	}
	return s, nil
}
