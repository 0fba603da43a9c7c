package cluster

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	gcnp "github.com/datastax/go-cassandra-native-protocol/frame"
	"github.com/datastax/go-cassandra-native-protocol/message"
	"github.com/datastax/go-cassandra-native-protocol/primitive"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
)

// linkTimeout bounds one request on a control connection. It is as long as
// ZDM's: a node that takes longer for system.local is of no use.
const linkTimeout = 10 * time.Second

// timeout is the cause of a context that ended because time was up.
func timeout(what string, limit time.Duration) error {
	return fmt.Errorf("%s within %s: %w", what, limit, context.DeadlineExceeded)
}

// link is one connection of a Control, after its handshake. Requests on it go
// one by one.
type link struct {
	node          netip.AddrPort
	authenticator string
	version       frame.Version
	nc            net.Conn
	cold          *coldConn
	// onEvent is called by the reader with each event's message and raw body;
	// it must not block.
	onEvent func(message.Message, []byte)

	// supported is the node's answer to OPTIONS; set by open, then read only.
	supported map[string][]string

	// turn holds one token: who has it owns stream, and may write.
	turn   chan struct{}
	stream int16

	// done is closed by the reader when the connection has ended, after err
	// was set.
	done chan struct{}
	err  error

	mu sync.Mutex
	// Guarded by mu. The request in flight, if answers is not nil.
	waiting int16
	answers chan *gcnp.RawFrame
}

// newLink starts the reader; close ends it and waits for it.
func newLink(nc net.Conn, node netip.AddrPort, v frame.Version, authenticator string, onEvent func(message.Message, []byte)) *link {
	l := &link{
		node: node, authenticator: authenticator, version: v, nc: nc, onEvent: onEvent,
		cold: &coldConn{in: bufio.NewReader(nc), out: nc, version: v, codec: gcnp.NewRawCodec()},
		turn: make(chan struct{}, 1),
		done: make(chan struct{}),
	}
	l.turn <- struct{}{}
	go l.read()
	return l
}

// close ends the connection and returns when its reader has ended.
func (l *link) close() {
	_ = l.nc.Close()
	<-l.done
}

func (l *link) read() {
	defer close(l.done)
	defer l.nc.Close()
	for {
		raw, err := l.cold.read()
		if err != nil {
			l.err = err
			return
		}
		if raw.Header.OpCode == primitive.OpCodeEvent {
			if event, err := l.cold.decode(raw); err == nil {
				l.onEvent(event, raw.Body)
			}
			continue
		}
		l.mu.Lock()
		if l.answers != nil && raw.Header.StreamId == l.waiting {
			l.answers <- raw // holds one, and gets only one
			l.answers = nil
		}
		l.mu.Unlock()
	}
}

// ask sends a request and returns the answer; an ERROR is *NodeError. A late
// answer is dropped.
func (l *link) ask(ctx context.Context, request message.Message) (message.Message, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, linkTimeout, timeout("no answer", linkTimeout))
	defer cancel()
	select {
	case <-l.turn:
	case <-l.done:
		return nil, l.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { l.turn <- struct{}{} }()

	l.stream = (l.stream + 1) & 0x7FFF
	answers := make(chan *gcnp.RawFrame, 1)
	l.mu.Lock()
	l.waiting, l.answers = l.stream, answers
	l.mu.Unlock()

	// A request is tiny: a write that does not end means that the node no
	// longer reads, and the connection is given up.
	_ = l.nc.SetWriteDeadline(time.Now().Add(linkTimeout))
	if err := l.cold.write(request, l.stream); err != nil {
		_ = l.nc.Close()
		return nil, err
	}
	select {
	case raw := <-answers:
		return l.cold.decode(raw)
	case <-l.done:
		return nil, l.err
	case <-ctx.Done():
		l.mu.Lock()
		l.answers = nil
		l.mu.Unlock()
		return nil, context.Cause(ctx)
	}
}

// query runs a statement that returns rows, at consistency ONE.
func (l *link) query(ctx context.Context, cql string) (*message.RowsResult, error) {
	reply, err := l.ask(ctx, &message.Query{
		Query:   cql,
		Options: &message.QueryOptions{Consistency: primitive.ConsistencyLevelOne},
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", cql, err)
	}
	rows, ok := reply.(*message.RowsResult)
	if !ok || rows.Metadata == nil {
		return nil, fmt.Errorf("%s: answered by %v without rows", cql, reply.GetOpCode())
	}
	return rows, nil
}

// describe reads the two system tables.
func (l *link) describe(ctx context.Context) (local, peers *message.RowsResult, err error) {
	if local, err = l.query(ctx, "SELECT * FROM system.local"); err != nil {
		return nil, nil, err
	}
	peers, err = l.query(ctx, "SELECT * FROM system.peers")
	return local, peers, err
}

// register asks for every kind of event.
func (l *link) register(ctx context.Context) error {
	_, err := l.ask(ctx, &message.Register{EventTypes: []primitive.EventType{
		primitive.EventTypeTopologyChange, primitive.EventTypeStatusChange, primitive.EventTypeSchemaChange,
	}})
	if err != nil {
		return fmt.Errorf("REGISTER: %w", err)
	}
	return nil
}

// options asks what the node offers to its clients.
func (l *link) options(ctx context.Context) error {
	reply, err := l.ask(ctx, &message.Options{})
	if err != nil {
		return fmt.Errorf("OPTIONS: %w", err)
	}
	if m, ok := reply.(*message.Supported); ok {
		l.supported = m.Options
	}
	return nil
}

// readSchema proves that the user may read the schema.
func (l *link) readSchema(ctx context.Context) error {
	_, err := l.query(ctx, "SELECT keyspace_name FROM system_schema.tables LIMIT 1")
	var node *NodeError
	if errors.As(err, &node) && node.Code == frame.ErrInvalid {
		// Before Cassandra 3.0 the schema was elsewhere.
		_, err = l.query(ctx, "SELECT keyspace_name FROM system.schema_columnfamilies LIMIT 1")
	}
	return err
}
