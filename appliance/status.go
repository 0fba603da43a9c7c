package appliance

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/proxy/control"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// statusTimeout bounds asking the process for a status, which shows without it
// what the agent knows.
const statusTimeout = 2 * time.Second

// statusErrors is how many of the last errors a status shows.
const statusErrors = 10

// Status looks at the owner's view and asks the process.
func (a *Agent) Status(ctx context.Context) adminapi.Status {
	v := a.view.Load()
	st := adminapi.Status{
		State: adminapi.Locked, Version: a.o.Version, Started: a.start, Running: v.running,
		Phase: phaseOf(v, a.o.Now()), Marks: marksOf(v).Marks, Recent: a.traffic.recent(a.o.Now()), Restarts: v.restarts, Child: v.output, Errors: a.o.Events.Errors(statusErrors),
	}
	doc := v.rec.Committed
	if doc != nil {
		st.State = adminapi.Configured
		if v.rec.Phase.Phase != phase.None {
			st.State = adminapi.Serving
		}
	}
	if d := v.rec.Drain; d != nil {
		st.State, st.Drain = adminapi.Drained, &adminapi.Drain{Since: d.Since, Reason: d.Reason, Caller: d.Caller, UntilReboot: d.UntilReboot}
	}
	if v.rec.Wanted != nil {
		doc = v.rec.Wanted
	}
	if doc != nil {
		st.ClusterID, st.Instance, st.Generation = doc.ClusterID, doc.Instance, doc.Generation
	}
	not := func(format string, args ...any) { st.NotReady = append(st.NotReady, fmt.Sprintf(format, args...)) }
	if v.rec.Committed == nil {
		not("the instance is locked; PUT a configuration to %s", adminapi.PathConfig)
	}
	if st.Drain != nil {
		not("the instance is drained since %s by %s%s; resume it with zdm-appliance resume, or POST %s", st.Drain.Since.Format(time.RFC3339), st.Drain.Caller, because(st.Drain.Reason), adminapi.PathResume)
	}
	if v.busy != "" && st.Running != st.Generation {
		not("%s", v.busy)
	}
	if v.riseError != "" {
		not("%s", v.riseError)
	}
	switch {
	case v.current == nil:
		if v.rec.Committed != nil && v.riseError == "" {
			not("the proxy process is being started")
		}
	default:
		a.askProxy(ctx, v, &st, not)
	}
	st.Ready = len(st.NotReady) == 0
	return st
}

// ProxyMetrics are the metrics of the process that serves, and their media type.
func (a *Agent) ProxyMetrics(ctx context.Context) (text []byte, media string, err error) {
	p := a.view.Load().current
	if p == nil {
		return nil, "", errors.New("no proxy process runs")
	}
	return p.metrics(ctx)
}

// LongestChange bounds how long a call may take.
func (a *Agent) LongestChange() time.Duration {
	return a.o.ReadyTimeout + a.o.DrainTimeout + handOverTimeout + 2*termGrace
}

func (a *Agent) askProxy(ctx context.Context, v *view, st *adminapi.Status, not func(string, ...any)) {
	own, err := v.current.status(ctx, statusTimeout)
	if err != nil {
		not("%v", err)
		return
	}
	st.Proxy, st.Running = own, own.Generation
	for _, reason := range own.NotReady {
		not("%s", reason)
	}
	if !own.Ready && len(own.NotReady) == 0 {
		not("the proxy process is %s", own.State)
	}
	stored := v.rec.Phase
	switch {
	case stored.Phase == phase.None:
	case own.Phase != stored.Phase || own.Epoch != stored.Epoch:
		not("the proxy process does not run the stored phase %s (epoch %d) yet", stored.Phase, stored.Epoch)
	case own.State != control.Serving && v.riseError == "" && v.rec.Drain == nil:
		not("the client port is not open yet")
	}
}
