package appliance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/appliance/recent"
	"github.com/zdmproject/terraform-provider-zdm/appliance/store"
	"github.com/zdmproject/terraform-provider-zdm/appliance/supervise"
)

// Defaults of Options.
const (
	DefaultReadyTimeout = 30 * time.Second
	DefaultDrainTimeout = 30 * time.Second
)

const (
	// handOverTimeout bounds taking the sockets over: three calls.
	handOverTimeout = 4 * callTimeout
	// termGrace is between SIGTERM and SIGKILL.
	termGrace = 5 * time.Second
	// alignInterval is how soon a process that missed a phase is told again.
	alignInterval = 500 * time.Millisecond
	// sequenceStep is how many numbers of events are stored as given out at once,
	// so that an event costs no write of the record.
	sequenceStep = 4096
)

// Options of an Agent.
type Options struct {
	Store   *store.Store
	Maker   supervise.Maker
	Log     *slog.Logger
	Version string
	// Events and Logs are where the agent tells what happens, and keeps what its
	// processes write.
	Events *recent.Events
	Logs   *recent.Logs
	// BootID is another one after each start of the machine.
	BootID string
	// ReadyTimeout bounds how long a new process may take until it is ready to
	// serve, DrainTimeout how long an old one may take to answer what is in
	// flight. 0 means the default.
	ReadyTimeout time.Duration
	DrainTimeout time.Duration
	// StopProxies ends the proxy processes with the agent. Otherwise they run on
	// and are adopted by the next one.
	StopProxies bool
	// Now is the clock of leases and events; nil means time.Now.
	Now func() time.Time
}

// Agent is the agent of one instance.
type Agent struct {
	// Set by New, then read only.
	o     Options
	log   *slog.Logger
	start time.Time

	// operations reach the owner one at a time; finished are the ends of tasks.
	operations chan func()
	finished   chan func()
	stopped    chan struct{} // closed when no operation is taken any more

	view    atomic.Pointer[view]
	traffic *traffic

	// Owned by Serve's goroutine.
	rec store.Record
	// current is the process that serves, or that is on its way to.
	current *proxy
	// rise is current's way there, nil when it has arrived.
	rise      *rise
	riseError string
	riseTimer <-chan time.Time
	backoff   supervise.Backoff
	// busy says what change is being made; "" if none is. handing: the change
	// has come to where it decides over current, so that nothing else does.
	busy     string
	handing  bool
	aligning bool
	restarts int
	// fellBack: a process has crashed since the last change, so that the next one is
	// of the program that was proven.
	fellBack bool
	output   []string // of the process that crashed last

	tasks       context.Context
	cancelTasks context.CancelFunc
	outstanding int
	stopping    bool
}

// view is what handlers see of the owner's state; immutable.
type view struct {
	rec       store.Record
	current   *proxy
	epoch     uint64 // that current has
	running   uint64 // generation of current
	rising    bool
	riseError string
	busy      string
	restarts  int
	output    []string
}

// New checks the options; it starts nothing.
func New(o Options) (*Agent, error) {
	if o.Store == nil || o.Maker == nil || o.Log == nil || o.Events == nil || o.Logs == nil {
		return nil, errors.New("agent: Store, Maker, Log, Events and Logs are needed")
	}
	if o.ReadyTimeout == 0 {
		o.ReadyTimeout = DefaultReadyTimeout
	}
	if o.DrainTimeout == 0 {
		o.DrainTimeout = DefaultDrainTimeout
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	a := &Agent{
		o: o, log: o.Log, start: o.Now().UTC(), rec: o.Store.Record(),
		operations: make(chan func()), finished: make(chan func()), stopped: make(chan struct{}),
	}
	a.traffic = newTraffic(a.start)
	o.Events.Reserve(a.rec.EventSequence)
	for _, report := range o.Store.Reports() {
		a.report("store: %s", report)
	}
	a.publish()
	return a, nil
}

// Serve adopts or starts the proxy process, and works until ctx ends. It is
// called once.
func (a *Agent) Serve(ctx context.Context) error {
	a.tasks, a.cancelTasks = context.WithCancel(context.WithoutCancel(ctx))
	defer a.cancelTasks()
	if err := a.begin(); err != nil {
		close(a.stopped)
		return err
	}
	if err := a.adopt(ctx); err != nil {
		close(a.stopped)
		return err
	}
	align := time.NewTicker(alignInterval)
	defer align.Stop()
	operations, stop := a.operations, ctx.Done()
	for !a.stopping || a.outstanding > 0 {
		a.publish()
		var died <-chan struct{}
		if a.current != nil {
			died = a.current.Done()
		}
		select {
		case operate := <-operations:
			operate()
		case finish := <-a.finished:
			a.outstanding--
			finish()
		case <-died:
			a.crashed()
		case <-a.riseTimer:
			a.riseTimer = nil
			a.raise()
		case <-align.C:
			a.align()
		case <-stop:
			a.stopping = true
			operations, stop = nil, nil
			close(a.stopped)
			a.cancelTasks()
			a.leave()
		}
	}
	a.publish()
	return nil
}

// begin makes the record that of this life.
func (a *Agent) begin() error {
	rec := a.rec
	if d := rec.Drain; d != nil && d.UntilReboot && d.BootID != a.o.BootID {
		rec.Drain = nil
		a.note(adminapi.EventDrain, "the machine was started anew, which ends the drain of %s", d.Since.Format(time.RFC3339))
	}
	return a.save(rec)
}

// leave lets go of the process that runs, or ends it.
func (a *Agent) leave() {
	p := a.current
	switch {
	case p == nil || a.handing: // handOver calls again
	case a.o.StopProxies:
		a.current = nil
		a.endDetached(p)
	default:
		p.Release()
		a.log.Info("the proxy process runs on without the agent", "process", p.Name(), "pid", p.PID())
	}
}

// endDetached ends a process while the agent ends.
func (a *Agent) endDetached(p *proxy) {
	a.task(func(context.Context) func() {
		err := supervise.Stop(context.Background(), p, p.drain, supervise.Grace{Drain: a.o.DrainTimeout, Term: termGrace})
		return func() {
			a.log.Info("ended the proxy process with the agent", "process", p.Name(), "error", err)
		}
	})
}

// task runs work beside the owner, and then what it returns in the owner. Only
// the owner calls it.
func (a *Agent) task(work func(context.Context) func()) {
	a.outstanding++
	// Serve returns only after it has run the function that this sends.
	go func() { a.finished <- work(a.tasks) }()
}

// save makes rec durable and then the agent's.
func (a *Agent) save(rec store.Record) error {
	if next := a.o.Events.Next(); next+sequenceStep/2 > rec.EventSequence {
		rec.EventSequence = next + sequenceStep
	}
	if err := a.o.Store.Save(rec); err != nil {
		return err
	}
	a.rec = rec
	return nil
}

func (a *Agent) publish() {
	if a.o.Events.Next() >= a.rec.EventSequence && a.tasks != nil {
		if err := a.save(a.rec); err != nil {
			a.log.Error("reserve numbers of events", "error", err)
		}
	}
	v := &view{rec: a.rec, current: a.current, rising: a.rise != nil, riseError: a.riseError, busy: a.busy, restarts: a.restarts, output: a.output}
	if a.current != nil {
		v.running, v.epoch = a.current.generation, a.current.epoch
	}
	a.view.Store(v)
}

// report tells an error in the log and in the ring.
func (a *Agent) report(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	a.log.Error(text)
	a.event(adminapi.EventError, text)
}

// note tells something that happened, in both places.
func (a *Agent) note(kind adminapi.EventKind, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	a.log.Info(text, "kind", kind)
	a.event(kind, text)
}

func (a *Agent) event(kind adminapi.EventKind, text string) {
	if err := a.o.Events.Add(kind, text); err != nil {
		a.log.Error("events are in memory only", "cause", err)
	}
}

// free refuses while a change is being made.
func (a *Agent) free() error {
	if a.busy != "" {
		return adminapi.NewProblem(adminapi.Conflict, "%s; try again when that has ended", a.busy)
	}
	return nil
}

// unprepared refuses while a step is prepared.
func (a *Agent) unprepared() error {
	if p := a.prepared(); p != nil {
		return adminapi.NewProblem(adminapi.Conflict, "a step to %s is prepared until %s; commit or abort it, or wait", p.Phase, p.Expires.Format("15:04:05 MST"))
	}
	return nil
}
