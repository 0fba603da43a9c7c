package cluster

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/proxy/control"
	"github.com/zdmproject/terraform-provider-zdm/proxy/endpoint"
)

const (
	askClock = "SELECT now() FROM system.local"
	// clockSamples are taken in a row; the one with the shortest round trip says
	// most. The first one often waits for the node to compile the statement.
	clockSamples = 3
	// clockGrain is the step of the clock behind now(): Cassandra's timeuuids
	// count the milliseconds of the operating system's clock, and what is finer
	// only keeps them apart.
	clockGrain = time.Millisecond
	// clockDrift is how fast two clocks may move apart after they were compared,
	// in parts of a million: each within the 100 that crystals keep.
	clockDrift = 200
	// uuidEpoch is the beginning of the Gregorian calendar, from which a UUID of
	// version 1 counts ticks of 100 ns (RFC 9562, section 5.1), to 1970.
	uuidEpoch = 0x01B21DD213814000
)

// Clock is how the clock of a cluster stands to this machine's. It is that of
// the one node that the control connection is on: the nodes of a cluster have to
// agree among themselves for Cassandra to order writes at all.
type Clock struct {
	// Ahead is the node's time less this machine's, now: the truth is within
	// Uncertainty of it, either way. Uncertainty is half of the round trip of the
	// question and half of the grain of the answer, and grows from then on.
	Ahead, Uncertainty time.Duration
	Node               string
	Measured           time.Time
}

// Clock returns the latest measure. ok is false while there is none: before the
// first connection, and where the node does not answer now(). Measures are taken
// when the control connection opens and at each heartbeat; the last one stays,
// ever less certain, while there is no connection.
func (c *Control) Clock() (m Clock, ok bool) {
	c.mu.Lock()
	m = c.clock
	c.mu.Unlock()
	if m.Node == "" {
		return Clock{}, false
	}
	m.Uncertainty += time.Since(m.Measured) * clockDrift / 1_000_000
	return m, true
}

// clockStatus is Clock for a status; nil while there is none.
func (c *Control) clockStatus() *control.Clock {
	m, ok := c.Clock()
	if !ok {
		return nil
	}
	return &control.Clock{
		AheadSeconds: m.Ahead.Seconds(), UncertaintySeconds: m.Uncertainty.Seconds(), Node: m.Node, Measured: m.Measured,
	}
}

// measureClock asks the node for its time. An ERROR, or an answer that is none,
// costs the measure and not the connection.
func (c *Control) measureClock(ctx context.Context, l *link) error {
	best := Clock{Node: endpoint.Name(l.node)}
	for i := range clockSamples {
		asked := time.Now()
		rows, err := l.query(ctx, askClock)
		took := time.Since(asked)
		var refused *NodeError
		if errors.As(err, &refused) {
			c.log.Debug("clock not measured", "cause", err.Error())
			return nil
		}
		if err != nil {
			return err
		}
		if len(rows.Data) != 1 || len(rows.Data[0]) != 1 {
			c.log.Debug("clock not measured", "cause", fmt.Sprintf("%s: answered by %d rows", askClock, len(rows.Data)))
			return nil
		}
		at, ok := uuidTime(rows.Data[0][0])
		if !ok {
			c.log.Debug("clock not measured", "cause", fmt.Sprintf("%s: answered by %x, which is no timeuuid", askClock, rows.Data[0][0]))
			return nil
		}
		if uncertainty := (took + clockGrain) / 2; i == 0 || uncertainty < best.Uncertainty {
			// The node read its clock in the middle of the round trip, and its
			// clock stood in the middle of the grain, as far as we know.
			best.Ahead = at.Add(clockGrain / 2).Sub(asked.Round(0).Add(took / 2))
			best.Uncertainty, best.Measured = uncertainty, asked
		}
	}
	c.mu.Lock()
	c.clock = best
	c.mu.Unlock()
	return nil
}

// uuidTime is the time in a UUID of version 1.
func uuidTime(id []byte) (time.Time, bool) {
	if len(id) != 16 || id[6]>>4 != 1 {
		return time.Time{}, false
	}
	ticks := int64(binary.BigEndian.Uint16(id[6:])&0x0FFF)<<48 | int64(binary.BigEndian.Uint16(id[4:]))<<32 | int64(binary.BigEndian.Uint32(id))
	ticks -= uuidEpoch
	return time.Unix(ticks/1e7, ticks%1e7*100), true
}
