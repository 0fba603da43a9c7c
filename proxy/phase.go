package proxy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/internal/buildinfo"
	"github.com/zdmproject/terraform-provider-zdm/proxy/control"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// Phase is the one that is served now, with its epoch.
func (s *Server) Phase() (phase.Phase, uint64) {
	ph := s.phase.Load()
	if ph.rule == nil {
		return phase.None, ph.epoch
	}
	return ph.rule.Phase, ph.epoch
}

// ErrStaleEpoch: a phase was asked for with an epoch lower than the last one.
var ErrStaleEpoch = errors.New("stale epoch")

// SetPhase makes every request that is read from now on follow p. Requests in
// flight end in the phase in which they began. It does not check the move: who
// calls it has prepared.
func (s *Server) SetPhase(p phase.Phase, epoch uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.phase.Load()
	if epoch < old.epoch {
		return fmt.Errorf("%w: %d is below %d; read the status and try again", ErrStaleEpoch, epoch, old.epoch)
	}
	if old.rule != nil && old.rule.Phase == p {
		s.phase.Store(&phaseState{rule: old.rule, epoch: epoch, since: old.since})
		return nil
	}
	s.phase.Store(&phaseState{rule: p.Rule(), epoch: epoch, since: time.Now().UTC()})
	s.log.Info("phase", "phase", p, "epoch", epoch)
	return nil
}

// Prove shows that p could be served now, and changes nothing: each side that
// it needs has its control connection, takes a login and shows its schema, and
// every client that is connected has connections there.
func (s *Server) Prove(ctx context.Context, p phase.Phase) error {
	var wg sync.WaitGroup
	var errs [2]error
	for _, side := range p.Rule().Needed.Each() {
		wg.Go(func() { errs[side] = s.clusters[side].Control().Prove(ctx) })
	}
	wg.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		return fmt.Errorf("%s needs %s: %w", p, p.Rule().Needed, err)
	}
	return s.warm(ctx, p)
}

// warm opens what the clients of now will need in p, so that the first request
// of the phase finds it.
func (s *Server) warm(ctx context.Context, p phase.Phase) error {
	for _, ses := range s.snapshot() {
		sc := ses.scope.Load()
		if sc == nil {
			continue // not logged in yet: it will log in to what is needed then
		}
		for _, side := range p.Rule().Needed.Each() {
			if sc.pools[side].Load() != nil {
				continue
			}
			if _, err := sc.connect(ctx, side); err != nil {
				if sc.gone() {
					continue // its client has left meanwhile
				}
				return fmt.Errorf("%s needs %s: the connections of client %s (keyspace %q): %w", p, side, ses.nc.RemoteAddr(), sc.keyspace, err)
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
		st := s.clusters[side].Control().Status()
		if st.Connected || s.clusters[side].Control().Topology() != nil && s.clusters[side].Control().Failures() < s.cfg.Heartbeat.FailureThreshold {
			continue
		}
		why := st.LastError
		if why == "" {
			why = "not connected yet"
		}
		out = append(out, fmt.Sprintf("%s control connection: %s", side, why))
	}
	return out
}

// needed are the sides without which the server is not ready.
func (s *Server) needed() phase.Set {
	if ph := s.phase.Load(); ph.rule != nil {
		return ph.rule.Needed
	}
	return s.cfg.InitialPhase().Rule().Needed
}

// Status is one look at the server. State, listen address and generation are
// for the caller to fill in.
func (s *Server) Status() control.Status {
	ph := s.phase.Load()
	st := control.Status{
		PID: os.Getpid(), Version: buildinfo.Version(), Epoch: ph.epoch, PhaseSince: ph.since,
		Clients:  int(s.metrics.Clients.Load()),
		Requests: s.metrics.Requests.Load(), Failures: s.metrics.Failures.Load(),
		Origin: s.clusters[phase.Origin].Control().Status(), Target: s.clusters[phase.Target].Control().Status(),
		NotReady: s.NotReady(), Errors: s.faults.Last(),
	}
	st.Phase, _ = s.Phase()
	st.Ready = len(st.NotReady) == 0
	for t := range s.metrics.InFlight {
		st.InFlight += int(s.metrics.InFlight[t].Load())
	}
	return st
}

// ControlFailures is how often in a row the control connection of a side, by
// its index, has failed.
func (s *Server) ControlFailures(side int) int { return s.clusters[side].Control().Failures() }
