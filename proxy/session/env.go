package session

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
	"github.com/zdmproject/terraform-provider-zdm/proxy/client"
	"github.com/zdmproject/terraform-provider-zdm/proxy/cluster"
	"github.com/zdmproject/terraform-provider-zdm/proxy/config"
	"github.com/zdmproject/terraform-provider-zdm/proxy/drivers"
	"github.com/zdmproject/terraform-provider-zdm/proxy/events"
	"github.com/zdmproject/terraform-provider-zdm/proxy/faults"
	"github.com/zdmproject/terraform-provider-zdm/proxy/metrics"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
	"github.com/zdmproject/terraform-provider-zdm/proxy/prepared"
	"github.com/zdmproject/terraform-provider-zdm/proxy/rewrite"
	"github.com/zdmproject/terraform-provider-zdm/proxy/route"
	"github.com/zdmproject/terraform-provider-zdm/proxy/timestamp"
	"github.com/zdmproject/terraform-provider-zdm/proxy/tracing"
	"github.com/zdmproject/terraform-provider-zdm/proxy/upstream"
	"github.com/zdmproject/terraform-provider-zdm/proxy/virtual"
)

// Env is what all sessions of a server share. What is no pointer to something
// shared is set before the first session and read only then.
type Env struct {
	Config   *config.Config
	Log      *slog.Logger
	Metrics  *metrics.Metrics
	Clusters [2]*upstream.Pools // by side
	Cache    *prepared.Cache
	Routing  route.Options
	Blocked  map[frame.Version]bool
	// Replace says which functions are replaced, and Values by what.
	Replace rewrite.Rule
	Values  *rewrite.Source
	Faults  faults.Log
	Drivers drivers.Count
	Budget  *client.Budget
	// Farewell is there while the server drains and nobody takes over.
	Farewell atomic.Pointer[events.Farewell]
	// strangers are the protocols other than CQL that came, and were told of.
	strangers sync.Map
	// Timestamps is nil if writes go on without a timestamp.
	Timestamps *timestamp.Source
	// Tracer is nil while requests are not traced.
	Tracer *tracing.Tracer

	// Phase is swapped whole; a request holds one for its whole life.
	Phase  atomic.Pointer[Phase]
	tables [2]atomic.Pointer[virtual.Tables] // by the side that they are modelled on
	mover  atomic.Pointer[Mover]             // while the server drains and clients move
}

// Phase is what is served now. It is immutable.
type Phase struct {
	Rule  *phase.Rule // nil: no phase, and no clients
	Epoch uint64
	Since time.Time
}

// Rule is that of the phase; nil without one.
func (e *Env) Rule() *phase.Rule { return e.Phase.Load().Rule }

// known, lowest first, are the protocol versions that clients may speak, where
// both clusters do.
var known = []frame.Version{frame.V3, frame.V4, frame.V5, frame.DSE1, frame.DSE2}

var standard = known[:3] // those that are not of DSE

// loginSides are those that a client's login needs: what the phase needs, and
// the side whose credentials clients send.
func (e *Env) loginSides() phase.Set {
	return e.Rule().Needed | phase.Of(e.credentialSide())
}

// credentialSide is the side whose credentials clients send: the configured one
// if it asks for a login at all, or else the other one if that does.
func (e *Env) credentialSide() phase.Side {
	side := phase.Target
	if e.Config.ClientCredentials == config.CredentialsOrigin {
		side = phase.Origin
	}
	known := e.Clusters[side].Control().Topology() != nil
	needed := e.Rule().Needed
	switch {
	case known && e.authenticator(side) == "" && e.authenticator(side.Other()) != "":
		return side.Other()
	case known && e.authenticator(side) == "" && !needed.Has(side):
		return side.Other()
	}
	return side
}

// authenticator is the class that a side's nodes ask for a login with; "" if
// they do not, or none was reached yet.
func (e *Env) authenticator(side phase.Side) string {
	t := e.Clusters[side].Control().Topology()
	if t == nil {
		return ""
	}
	return t.Authenticator
}

// OnTopology renews the virtual system tables, and looks whether both sides are
// one cluster: there each write would be applied twice.
func (e *Env) OnTopology(side phase.Side, t *cluster.Topology) {
	if other := e.Clusters[side.Other()].Control().Topology(); other != nil {
		if node := t.SharedNode(other); node != "" {
			e.Log.Warn("origin and target are the same cluster, and each write is applied twice; correct the contact points of one side", "node", node)
		}
	}
	tables, err := e.makeTables(t)
	if err != nil {
		e.Log.Error("virtual system tables", "cluster", side, "cause", err)
		return
	}
	e.tables[side].Store(tables)
}

// serves reports whether a client may speak v now: every side that it will use
// must speak it too, since bodies are passed on as they are. The error is that a
// side could not be asked: a client that is told no would step down for good.
func (e *Env) serves(ctx context.Context, v frame.Version) (bool, error) {
	if e.Blocked[v] {
		return false, nil
	}
	if v <= frame.V4 {
		return v >= frame.V3, nil
	}
	ctx, cancel := context.WithTimeout(ctx, e.Config.Listen.LoginTimeout)
	defer cancel()
	for _, side := range e.loginSides().Each() {
		speaks, err := e.Clusters[side].Speaks(ctx, v)
		if err != nil {
			e.Log.Info("protocol version not offered: a side cannot be asked", "version", int(v), "cluster", side, "cause", err)
			return false, err
		}
		if !speaks {
			return false, nil
		}
	}
	return true, nil
}

// offers are what the clusters that are in use answer OPTIONS with: first the
// one whose system tables clients see.
func (e *Env) offers() (out []map[string][]string) {
	first := route.SystemSide(e.Rule(), e.Routing)
	for _, side := range []phase.Side{first, first.Other()} {
		if t := e.Clusters[side].Control().Topology(); t != nil && e.loginSides().Has(side) {
			out = append(out, t.Supported)
		}
	}
	return out
}

// bounds are the lowest and the greatest version that clients may speak now, DSE
// versions apart.
func (e *Env) bounds(ctx context.Context) (lowest, greatest frame.Version, err error) {
	for _, v := range standard {
		served, err := e.serves(ctx, v)
		if err != nil {
			return 0, 0, err
		}
		if served {
			if lowest == 0 {
				lowest = v
			}
			greatest = v
		}
	}
	return lowest, greatest, nil
}

// makeTables makes the system tables that clients see in front of a cluster.
func (e *Env) makeTables(t *cluster.Topology) (*virtual.Tables, error) {
	return virtual.New(virtual.Ring{
		Addresses: e.Config.Topology.Addresses, Index: e.Config.Topology.Index,
		NumTokens: e.Config.Topology.NumTokens, Port: e.Config.Listen.Port,
	}, virtual.Real{Local: t.Local, Peers: t.Peers, Datacenter: t.Datacenter})
}

// systemTables are those of the side that answers system queries now, or of the
// other one while that was never reached.
func (e *Env) systemTables() *virtual.Tables {
	side := route.SystemSide(e.Rule(), e.Routing)
	for _, side := range []phase.Side{side, side.Other()} {
		if t := e.tables[side].Load(); t != nil {
			return t
		}
	}
	return nil
}

// note records an error that the proxy answers a request with.
func (e *Env) note(s *Session, ex *exchange, told *frame.ErrorBody) {
	skipped, log := e.Faults.Add(told.Message)
	if log {
		e.Log.Warn("request failed", "client", s.client.RemoteAddr(), "opcode", ex.opcode, "code", fmt.Sprintf("0x%04X", int32(told.Code)), "cause", told.Message, "others_since", skipped)
	}
}
