package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/internal/buildinfo"
	"github.com/zdmproject/terraform-provider-zdm/proxy/control"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
	"github.com/zdmproject/terraform-provider-zdm/proxy/route"
	"github.com/zdmproject/terraform-provider-zdm/proxy/session"
)

// Phase is the one that is served now, with its epoch.
func (s *Server) Phase() (phase.Phase, uint64) {
	ph := s.env.Phase.Load()
	if ph.Rule == nil {
		return phase.None, ph.Epoch
	}
	return ph.Rule.Phase, ph.Epoch
}

// ErrStaleEpoch: a phase was asked for with an epoch lower than the last one.
var ErrStaleEpoch = errors.New("stale epoch")

// SetPhase makes every request that is read from now on follow p. Requests in
// flight end in the phase in which they began. It does not check the move: who
// calls it has prepared.
func (s *Server) SetPhase(p phase.Phase, epoch uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.env.Phase.Load()
	if epoch < old.Epoch {
		return fmt.Errorf("%w: %d is below %d; read the status and try again", ErrStaleEpoch, epoch, old.Epoch)
	}
	if old.Rule != nil && old.Rule.Phase == p {
		s.env.Phase.Store(&session.Phase{Rule: old.Rule, Epoch: epoch, Since: old.Since})
		return nil
	}
	copies := route.Decide(p.Rule(), route.Read, s.env.Routing)
	for _, side := range phase.Sides {
		s.env.Metrics.SetCopies(side, copies.HasShadow && copies.Shadow == side)
	}
	s.env.Phase.Store(&session.Phase{Rule: p.Rule(), Epoch: epoch, Since: time.Now().UTC()})
	s.env.Log.Info("phase served", "phase", p, "epoch", epoch)
	return nil
}

// Prove shows that p could be served now, and changes nothing: each side that
// it needs has its control connection, takes a login and shows its schema, and
// every client that is connected has connections there.
func (s *Server) Prove(ctx context.Context, p phase.Phase) error {
	var wg sync.WaitGroup
	var errs [2]error
	for _, side := range p.Rule().Needed.Each() {
		wg.Go(func() { errs[side] = s.env.Clusters[side].Control().Prove(ctx) })
	}
	wg.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		return fmt.Errorf("%s needs %s: %w", p, p.Rule().Needed, err)
	}
	if why := s.timestampProblems(p.Rule()); len(why) > 0 {
		return fmt.Errorf("%s writes to both clusters: %s", p, strings.Join(why, "; "))
	}
	return s.warm(ctx, p)
}

// timestampProblems is why writes cannot get timestamps in a phase, as they are
// to; empty if they can, or need none there.
func (s *Server) timestampProblems(r *phase.Rule) []string {
	if s.env.Timestamps == nil || r.Writes != phase.Both {
		return nil
	}
	return s.env.Timestamps.Problems()
}

// warm opens what the clients of now will need in p, so that the first request
// of the phase finds it.
func (s *Server) warm(ctx context.Context, p phase.Phase) error {
	for _, ses := range s.snapshot() {
		for _, side := range p.Rule().Needed.Each() {
			if err := ses.Warm(ctx, side); err != nil {
				return fmt.Errorf("%s needs %s: %w", p, side, err)
			}
		}
	}
	return nil
}

// NotReady says what the phase (or, without one, the first that could be
// served) lacks; empty when nothing does.
func (s *Server) NotReady() []string {
	var out []string
	for _, side := range s.needed().Each() {
		st := s.env.Clusters[side].Control().Status()
		if st.Connected || s.env.Clusters[side].Control().Topology() != nil && s.env.Clusters[side].Control().Failures() < s.env.Config.Heartbeat.FailureThreshold {
			continue
		}
		why := st.LastError
		if why == "" {
			why = "not connected yet"
		}
		out = append(out, fmt.Sprintf("%s control connection: %s", side, why))
	}
	if len(out) > 0 {
		return out
	}
	return s.timestampProblems(s.rule())
}

// rule is that of the phase, or of the first one while there is none.
func (s *Server) rule() *phase.Rule {
	if r := s.env.Rule(); r != nil {
		return r
	}
	return s.env.Config.InitialPhase().Rule()
}

// needed are the sides without which the server is not ready.
func (s *Server) needed() phase.Set { return s.rule().Needed }

// Status is one look at the server. State, listen address and generation are
// for the caller to fill in.
func (s *Server) Status() control.Status {
	ph := s.env.Phase.Load()
	st := control.Status{
		PID: os.Getpid(), Version: buildinfo.Version(), Epoch: ph.Epoch, PhaseSince: ph.Since,
		Clients:  int(s.env.Metrics.Clients.Load()),
		Requests: s.env.Metrics.Requests(), Failures: s.env.Metrics.Failures.Load(),
		Origin: s.env.Clusters[phase.Origin].Control().Status(), Target: s.env.Clusters[phase.Target].Control().Status(),
		NotReady: s.NotReady(), Drivers: s.env.Drivers.All(), Errors: s.env.Faults.Last(),
	}
	st.Origin.Traffic = control.Traffic(s.env.Metrics.Traffic(phase.Origin))
	st.Target.Traffic = control.Traffic(s.env.Metrics.Traffic(phase.Target))
	st.Phase, _ = s.Phase()
	st.Ready = len(st.NotReady) == 0
	for t := range s.env.Metrics.InFlight {
		st.InFlight += int(s.env.Metrics.InFlight[t].Load())
	}
	return st
}

// ControlFailures is how often in a row the control connection of a side, by
// its index, has failed.
func (s *Server) ControlFailures(side int) int { return s.env.Clusters[side].Control().Failures() }

// Adopt takes one message of a process that drains; nc is the client of its
// session, nil if it has none. After an error nc is still the caller's.
func (s *Server) Adopt(ctx context.Context, m control.Message, nc net.Conn) error {
	if s.env.Timestamps != nil {
		s.env.Timestamps.Follow(m.Timestamp)
	}
	for i := range m.Statements {
		s.env.Learn(&m.Statements[i])
	}
	for _, side := range phase.Sides {
		for _, body := range m.Waiting[side] {
			s.pair(side, body)
		}
	}
	s.warmSessions(ctx, &m)
	if m.Session == nil {
		return nil
	}
	if s.transport.Listen != nil {
		return errors.New("clients must use TLS now, and this one does not")
	}
	ses, err := session.Adopt(&s.env, nc, m.Session)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return errDraining
	}
	return s.enter(ses)
}

// warmSessions opens what the clients to come will use. What cannot be opened in time is
// no reason to refuse them: closed, they would come back to this process.
func (s *Server) warmSessions(ctx context.Context, m *control.Message) {
	within := m.WarmWithin
	if within <= 0 {
		within = control.WarmTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for i := range m.Warm {
		if err := s.env.Warm(ctx, s.needed(), &m.Warm[i]); err != nil {
			s.env.Log.Warn("clients are taken over before their connections are open", "keyspace", m.Warm[i].Keyspace, "cause", err)
		}
	}
}
