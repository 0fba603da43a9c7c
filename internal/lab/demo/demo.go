package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/internal/lab"
	"github.com/zdmproject/terraform-provider-zdm/internal/lab/journal"
	"github.com/zdmproject/terraform-provider-zdm/internal/lab/load"
	"github.com/zdmproject/terraform-provider-zdm/internal/lab/verify"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// Options of the demo. All but Out have a default.
type Options struct {
	Dir         string // for everything that the demo writes; .lab/demo
	Example     string // the folder with main.tf; examples/demo
	Terraform   string // the program; see findTerraform
	Binaries    string // the folder with our programs; the running program's
	BaseAddress netip.Addr
	// Hold is how long each phase lasts after it was applied; 6 s.
	Hold time.Duration
	// Rate of the application in requests a second; 200.
	Rate float64
	Out  *os.File
}

// ErrFailed says that the demo ran and did not show what it promises.
var ErrFailed = errors.New("the demo did not come out as it must; see above")

// walk is the phases in the order in which they are visited. The first is
// applied before the load begins.
var walk = []phase.Phase{phase.DualWrite, phase.DualRead, phase.CutOver, phase.DualRead, phase.CutOver, phase.TargetOnly}

// cleanupTimeout bounds the way down, after a failure or Ctrl-C too.
const cleanupTimeout = time.Minute

// Run runs the demo. It ends everything that it has started, however it ends.
func Run(ctx context.Context, o Options) error {
	if err := o.complete(); err != nil {
		return err
	}
	d := &demo{o: o, screen: newScreen(o.Out), begin: time.Now(), labDir: filepath.Join(o.Dir, "lab"), logDir: filepath.Join(o.Dir, "logs")}
	defer d.cleanUp()
	err := d.run(ctx)
	if ctx.Err() != nil {
		err = errors.New("interrupted")
	}
	return err
}

func (o *Options) complete() error {
	if o.Hold == 0 {
		o.Hold = 6 * time.Second
	}
	if o.Rate == 0 {
		o.Rate = 200
	}
	if o.Binaries == "" {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		o.Binaries = filepath.Dir(self)
	}
	for _, p := range []struct {
		path     *string
		fallback string
	}{{&o.Dir, ".lab/demo"}, {&o.Example, "examples/demo"}, {&o.Binaries, ""}} {
		if *p.path == "" {
			*p.path = p.fallback
		}
		abs, err := filepath.Abs(*p.path)
		if err != nil {
			return err
		}
		*p.path = abs
	}
	return nil
}

type demo struct {
	// Set before run.
	o              Options
	screen         *screen
	begin          time.Time
	labDir, logDir string

	// Set by prepare.
	lab       *lab.Lab
	terraform *terraform
	files     []io.Closer

	// Set by startLoad.
	app         *load.Load
	view        *view
	journalPath string
	stop        func() error // ends load and view, and waits for them

	// proved is what was verified, set when both verifications were clean.
	proved struct{ both, target int }
}

// cleanUp ends everything and keeps the logs.
func (d *demo) cleanUp() {
	ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
	defer cancel()
	for _, f := range d.files {
		_ = f.Close()
	}
	d.keepLogs()
	if err := lab.Purge(ctx, d.labDir); err != nil {
		d.screen.say("clean up: %v; zdm-lab down --purge --dir %s tries again", err, d.labDir)
	}
	_ = os.RemoveAll(d.terraformDir())
	if _, err := os.Stat(d.logDir); err == nil {
		d.screen.say("logs: %s", d.logDir)
	}
}

func (d *demo) terraformDir() string { return filepath.Join(d.o.Dir, "terraform") }

// keepLogs copies the logs of the lab's processes.
func (d *demo) keepLogs() {
	logs, _ := filepath.Glob(filepath.Join(d.labDir, "*", "log"))
	for _, path := range logs {
		if b, err := os.ReadFile(path); err == nil {
			_ = os.WriteFile(filepath.Join(d.logDir, filepath.Base(filepath.Dir(path))+".log"), b, 0o600)
		}
	}
}

func (d *demo) run(ctx context.Context) error {
	if err := d.prepare(ctx); err != nil {
		return err
	}
	first := walk[0]
	if err := d.apply(ctx, first); err != nil {
		return err
	}
	if err := d.startLoad(ctx, first); err != nil {
		return err
	}
	err := d.migrate(ctx)
	if stopped := d.stop(); err == nil {
		err = stopped
	}
	return d.conclude(err)
}

// prepare makes what is there before a migration begins: two clusters with the
// application's empty table, and two appliances without a configuration.
func (d *demo) prepare(ctx context.Context) error {
	program, err := findTerraform(d.o.Terraform)
	if err != nil {
		return err
	}
	if err := checkFiles(d.o.Example, d.o.Binaries); err != nil {
		return err
	}
	// A demo that was killed may have left something.
	if err := lab.Purge(ctx, d.labDir); err != nil {
		return err
	}
	for _, dir := range []string{d.logDir, d.terraformDir()} {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(d.logDir, 0o700); err != nil {
		return err
	}
	d.screen.say("A live application moves from Cassandra %s to Cassandra %s; all of it on this machine, real, and gone afterwards.",
		lab.DefaultOriginVersion, lab.DefaultTargetVersion)
	d.lab, err = lab.Up(ctx, lab.Options{
		Dir: d.labDir, BaseAddress: d.o.BaseAddress, Nodes: 1, Proxies: 2, Binaries: d.o.Binaries, Progress: d.screen,
	})
	if err != nil {
		return err
	}
	if err := Setup(ctx, d.lab); err != nil {
		return err
	}
	d.screen.say("the application's table is made on both clusters, and empty")
	log, err := d.logFile("terraform.log")
	if err != nil {
		return err
	}
	variables, err := variables(d.lab)
	if err != nil {
		return err
	}
	d.terraform, err = newTerraform(program, d.o.Example, d.terraformDir(), d.o.Binaries, variables, log)
	if err != nil {
		return err
	}
	// A demo that is killed during an apply leaves terraform and the provider
	// behind; the next one finds and ends them.
	d.terraform.env = append(d.terraform.env, d.lab.Mark())
	return nil
}

func (d *demo) logFile(name string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(d.logDir, name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err == nil {
		d.files = append(d.files, f)
	}
	return f, err
}

// apply changes the one attribute, and checks that every instance followed.
func (d *demo) apply(ctx context.Context, p phase.Phase) error {
	d.screen.say("%s", d.stamp("$ "+d.terraform.command(p.String())))
	began := time.Now()
	summary, err := d.terraform.apply(ctx, p.String())
	if err != nil {
		return err
	}
	d.screen.say("%s", d.stamp(fmt.Sprintf("  %s, in %.1fs. %s", summary, time.Since(began).Seconds(), p.Rule().Summary)))
	all, err := instances(d.lab)
	if err != nil {
		return err
	}
	for i, l := range lookAt(ctx, all) {
		if got := l.phaseText(); got != p.String() {
			return fmt.Errorf("terraform applied phase %s, and instance %s says: %s; see %s", p, all[i].name, got, d.logDir)
		}
	}
	return nil
}

func (d *demo) stamp(text string) string {
	return fmt.Sprintf("%5.0fs  %s", time.Since(d.begin).Seconds(), text)
}

// startLoad connects the application to the proxies and shows how it fares.
func (d *demo) startLoad(ctx context.Context, first phase.Phase) error {
	to, err := Endpoint(d.lab, "proxies")
	if err != nil {
		return err
	}
	log, err := d.logFile("driver.log")
	if err != nil {
		return err
	}
	d.journalPath = filepath.Join(d.logDir, "journal.ndjson")
	records, err := journal.Create(d.journalPath)
	if err != nil {
		return err
	}
	d.files = append(d.files, records)
	to.Log, to.Meter = log, new(load.Meter)
	session, err := load.Connect(to)
	if err != nil {
		return err
	}
	all, err := instances(d.lab)
	if err == nil {
		d.app, err = load.New(load.Config{Client: load.NewCQL(session), Journal: records, Rate: d.o.Rate, Phase: first.String()})
	}
	if err != nil {
		session.Close()
		return err
	}
	d.screen.say("%s", d.stamp(fmt.Sprintf("the application starts: %.0f requests a second through both proxies", d.o.Rate)))
	d.view = &view{screen: d.screen, app: d.app, meter: to.Meter, instances: all, begin: d.begin}

	// Both end with ctx, and with stop.
	ctx, cancel := context.WithCancel(ctx)
	served, viewed := make(chan error, 1), make(chan struct{})
	go func() { served <- d.app.Serve(ctx) }()
	go func() { d.view.serve(ctx); close(viewed) }()
	d.stop = func() error {
		cancel()
		<-viewed
		err := <-served
		session.Close()
		return err
	}
	return nil
}

// migrate walks through the phases while the load runs.
func (d *demo) migrate(ctx context.Context) error {
	if err := d.hold(ctx, walk[0]); err != nil {
		return err
	}
	for _, p := range walk[1:] {
		var before *journal.Model
		since := time.Now()
		if p == phase.TargetOnly {
			var err error
			if before, err = d.verifyPaused(ctx, phase.Both, time.Time{}); err != nil {
				return err
			}
			since = time.Now()
			d.app.Resume()
		}
		d.view.now(d.terraform.command(p.String()))
		// The requests during the change count for the phase that it leads to.
		if err := d.app.SetPhase(p.String()); err != nil {
			return err
		}
		if err := d.apply(ctx, p); err != nil {
			return err
		}
		if err := d.hold(ctx, p); err != nil {
			return err
		}
		if p == phase.TargetOnly {
			after, err := d.verifyPaused(ctx, phase.Of(phase.Target), since)
			if err != nil {
				return err
			}
			d.proved.both, d.proved.target = before.Acked, after.Acked-before.Acked
		}
	}
	return nil
}

func (d *demo) hold(ctx context.Context, p phase.Phase) error {
	d.view.now("in " + p.String() + ": " + p.Rule().Summary)
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d.o.Hold):
		return nil
	}
}

// verifyPaused leaves the load paused.
func (d *demo) verifyPaused(ctx context.Context, sides phase.Set, since time.Time) (*journal.Model, error) {
	what := sides.String() + " clusters, every row"
	if !since.IsZero() {
		what = sides.String() + ", the rows touched since both were verified"
	}
	d.view.now("the load pauses; verifying " + what)
	if err := d.app.Pause(ctx); err != nil {
		return nil, err
	}
	d.screen.say("%s", d.stamp("the load pauses; verifying "+what))
	model, err := journal.Load(d.journalPath)
	if err != nil {
		return nil, err
	}
	reports, err := Verify(ctx, d.lab, model, sides, since)
	if err != nil {
		return nil, err
	}
	if !PrintReports(d.screen, model, reports) {
		return nil, ErrFailed
	}
	if !certain(reports) {
		return nil, fmt.Errorf("%w: rows with an unknown outcome cannot be verified", ErrFailed)
	}
	return model, nil
}

func certain(reports []*verify.Report) bool {
	for _, r := range reports {
		if r.Uncertain > 0 {
			return false
		}
	}
	return true
}

// conclude prints the table and the verdict. err is why the migration ended
// early, or nil.
func (d *demo) conclude(err error) error {
	s := d.app.Stats()
	d.screen.say("")
	PrintVisits(d.screen, s)
	d.screen.say("The requests during a change count for the phase that it leads to.")
	PrintProblems(d.screen, s)
	if err != nil {
		return err
	}
	d.screen.say("\n%d requests, %d failed, %d acknowledged writes verified on both clusters", s.Total.Requests, s.Total.Failures, d.proved.both)
	d.screen.say("beside them %d acknowledged writes since then, for target_only, verified on Target; %d wrong reads; %.0fs in all",
		d.proved.target, s.Total.Wrong, time.Since(d.begin).Seconds())
	if s.Total.Failures+s.Total.Wrong > 0 || d.proved.both == 0 || d.proved.target == 0 {
		return ErrFailed
	}
	for _, v := range s.Visits {
		if v.Requests == 0 {
			return fmt.Errorf("%w: no request in %s", ErrFailed, v.Phase)
		}
	}
	return nil
}
