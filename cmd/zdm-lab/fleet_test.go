package main_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/appliance/client"
	"github.com/zdmproject/terraform-provider-zdm/internal/lab"
	"github.com/zdmproject/terraform-provider-zdm/internal/lab/labtest"
	"github.com/zdmproject/terraform-provider-zdm/internal/lab/load"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

const (
	// keyspace is one for all tests: the proxies keep a pool for each keyspace
	// a while longer than its clients, and that would look like a leak.
	keyspace = "faults"
	// metricsPort is where each proxy serves its metrics, on its own address.
	metricsPort = 14001
	// look is how often something is looked at that is waited for.
	look = 20 * time.Millisecond
	// patience bounds what is only asked to come about; the machine may be busy.
	patience = 60 * time.Second
)

// fleet is the lab with two instances that serve in dual_write.
type fleet struct {
	*lab.Lab
	all []*instance
	// quiet is what the instances need without clients, after some were there;
	// set by measure, once.
	quiet level
}

// instance is an appliance with a client of its admin API.
type instance struct {
	*lab.Appliance
	api *client.Client
}

// one is the fleet of this binary: made once, since its lab is.
var one struct {
	once  sync.Once
	fleet *fleet
	err   error
}

// ready returns the fleet, in dual_write, with both clusters up.
func ready(t *testing.T) *fleet {
	t.Helper()
	l := labtest.Lab(t)
	one.once.Do(func() {
		one.fleet, one.err = newFleet(l)
		if one.err == nil {
			one.err = one.fleet.configure()
		}
	})
	if one.err != nil {
		t.Fatal(one.err)
	}
	f := one.fleet
	f.repair(t)
	if f.quiet == (level{}) {
		f.measure(t)
	}
	return f
}

func newFleet(l *lab.Lab) (*fleet, error) {
	f := &fleet{Lab: l}
	for _, a := range l.Appliances[:2] {
		api, err := a.Client()
		if err != nil {
			return nil, err
		}
		f.all = append(f.all, &instance{a, api})
	}
	return f, nil
}

// configure gives each instance its document. One that has it already, in a lab
// that ran before, does not notice.
func (f *fleet) configure() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	for i, in := range f.all {
		have, err := in.api.Config(ctx)
		if err != nil {
			return err
		}
		want := f.document(i)
		if have.ClusterID != "" {
			want.ClusterID = have.ClusterID
		}
		if maps.Equal(have.Settings, want.Settings) {
			continue
		}
		if _, err := in.api.PutConfig(ctx, want, have.Generation); err != nil {
			return err
		}
	}
	return nil
}

func (f *fleet) document(i int) *adminapi.Config {
	in := f.all[i]
	addresses := make([]string, len(f.all))
	for i, other := range f.all {
		addresses[i] = other.ListenAddress
	}
	doc := &adminapi.Config{
		ClusterID: "faults", Instance: in.Name,
		Settings: map[string]string{
			"proxy_listen_address": in.ListenAddress, "proxy_listen_port": strconv.Itoa(in.Port),
			"proxy_topology_addresses": strings.Join(addresses, ","), "proxy_topology_index": strconv.Itoa(i),
			"metrics_address": in.ListenAddress, "metrics_port": strconv.Itoa(metricsPort),
		},
		Secrets: map[string]string{},
	}
	for _, side := range phase.Sides {
		c := f.Cluster(side)
		doc.Settings[side.String()+"_contact_points"] = strings.Join(c.ContactPoints(), ",")
		doc.Settings[side.String()+"_port"] = strconv.Itoa(c.Port)
		doc.Settings[side.String()+"_username"] = c.Username
		doc.Secrets[side.String()+"_password"] = c.Password
	}
	return doc
}

// repair undoes what an earlier test may have left when it failed.
func (f *fleet) repair(t *testing.T) {
	t.Helper()
	for _, c := range f.Clusters() {
		for _, n := range c.Nodes {
			if n.PID() != 0 {
				if err := n.Continue(); err != nil {
					t.Fatal(err)
				}
			}
			if err := n.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, in := range f.all {
		if err := in.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	f.walkTo(t, phase.DualWrite)
	for _, in := range f.all {
		in.awaitServing(t, 0)
	}
}

// measure runs a load and notes what the instances keep when it has gone: their
// pools stay for a minute, and that is no leak.
func (f *fleet) measure(t *testing.T) {
	t.Helper()
	for _, c := range f.Clusters() {
		if err := load.Setup(t.Context(), labtest.Session(t, c, ""), keyspace, c.Replication()); err != nil {
			t.Fatal(err)
		}
	}
	app := f.application(t)
	app.awaitAcked(100)
	app.stop()
	for _, in := range f.all {
		var l level
		eventually(t, patience, in.Name+" at rest", func() (err error) {
			l, err = in.level(t.Context())
			return errors.Join(err, l.busy())
		})
		f.quiet.goroutines = max(f.quiet.goroutines, l.goroutines)
		f.quiet.descriptors = max(f.quiet.descriptors, l.descriptors)
	}
	t.Logf("without clients a proxy has %v goroutines and %v descriptors", f.quiet.goroutines, f.quiet.descriptors)
}

// level is what a proxy holds at a moment.
type level struct{ streams, inFlight, clients, goroutines, descriptors float64 }

// slack is how far two looks at a process that rests may differ: a connection
// that is being opened again, the look itself.
const slack = 6

func (l level) busy() error {
	if l.streams+l.inFlight+l.clients > 0 {
		return fmt.Errorf("%v stream ids in use, %v requests in flight, %v clients; want none", l.streams, l.inFlight, l.clients)
	}
	return nil
}

func (l level) above(quiet level) error {
	if l.goroutines > quiet.goroutines+slack || l.descriptors > quiet.descriptors+slack {
		return fmt.Errorf("%v goroutines and %v descriptors; before there were %v and %v", l.goroutines, l.descriptors, quiet.goroutines, quiet.descriptors)
	}
	return nil
}

// level reads the metrics of the instance.
func (in *instance) level(ctx context.Context) (level, error) {
	sums, err := in.metrics(ctx)
	return level{
		streams:  sums["zdm_origin_used_stream_ids_total"] + sums["zdm_target_used_stream_ids_total"],
		inFlight: sums["zdm_proxy_inflight_requests_total"], clients: sums["zdm_client_connections_total"],
		goroutines: sums["go_goroutines"], descriptors: sums["process_open_fds"],
	}, err
}

// scraper keeps no connection: it would be one more descriptor of the proxy.
var scraper = &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// metrics returns the sum of each metric over its labels.
func (in *instance) metrics(ctx context.Context) (map[string]float64, error) {
	at := "http://" + net.JoinHostPort(in.ListenAddress, strconv.Itoa(metricsPort)) + "/metrics"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return nil, err
	}
	resp, err := scraper.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", at, resp.Status)
	}
	sums := make(map[string]float64)
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		series, value, ok := strings.Cut(lines.Text(), " ")
		if i := strings.LastIndexByte(lines.Text(), ' '); strings.Contains(series, "{") && i > 0 {
			series, value = lines.Text()[:i], lines.Text()[i+1:]
		}
		name, _, _ := strings.Cut(series, "{")
		if n, err := strconv.ParseFloat(value, 64); ok && err == nil {
			sums[name] += n
		}
	}
	if _, known := sums["go_goroutines"]; !known {
		return nil, fmt.Errorf("%s has no go_goroutines", at)
	}
	return sums, lines.Err()
}

// atRest fails the test if the instances hold more than they did before it.
func (f *fleet) atRest(t *testing.T) {
	t.Helper()
	for _, in := range f.all {
		eventually(t, patience, in.Name+" at rest", func() error {
			l, err := in.level(t.Context())
			if err != nil {
				return err
			}
			pids, err := in.processes()
			if err == nil && len(pids) != 1 {
				err = fmt.Errorf("it has proxy processes %v, want one", pids)
			}
			return errors.Join(err, l.busy(), l.above(f.quiet))
		})
	}
}

// processes returns the proxy processes of the instance: those that the agent
// controls by a socket in its folder.
func (in *instance) processes() ([]int, error) {
	dir, err := in.runDir()
	if err != nil {
		return nil, err
	}
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil, err
	}
	var out []int
	for _, file := range files {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			return nil, err
		}
		args, err := arguments(pid)
		if err != nil {
			continue // it has ended
		}
		if i := slices.Index(args, "-control"); i > 0 && i+1 < len(args) && filepath.Dir(args[i+1]) == dir {
			out = append(out, pid)
		}
	}
	return out, nil
}

// runDir is where the agent has the sockets and logs of its proxies.
func (in *instance) runDir() (string, error) {
	args, err := arguments(in.AgentPID())
	if err != nil {
		return "", err
	}
	i := slices.Index(args, "-run-dir")
	if i < 0 || i+1 == len(args) {
		return "", fmt.Errorf("the agent's arguments have no -run-dir: %q", args)
	}
	return args[i+1], nil
}

func arguments(pid int) ([]string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return strings.Split(strings.TrimRight(string(b), "\x00"), "\x00"), err
}

// status asks the agent; the test ends if it does not answer.
func (in *instance) status(t *testing.T) *adminapi.Status {
	t.Helper()
	s, err := in.api.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// awaitServing waits until a proxy process other than the one with pid serves,
// ready.
func (in *instance) awaitServing(t *testing.T, not int) {
	t.Helper()
	eventually(t, patience, in.Name+" serving", func() error {
		s, err := in.api.Status(t.Context())
		switch {
		case err != nil:
			return err
		case s.State != adminapi.Serving || !s.Ready || s.Proxy == nil || s.Proxy.PID == not:
			return fmt.Errorf("state %s, ready %v (%s)", s.State, s.Ready, strings.Join(s.NotReady, "; "))
		}
		return nil
	})
}

// step takes all instances to a phase that is one away: prepared on all before
// one commits. An error of a preparation has changed nothing; what is once
// prepared on all is committed on all, which may take until a process is back.
func (f *fleet) step(ctx context.Context, to phase.Phase) error {
	tokens := make(map[*instance]string)
	giveUp := func(err error) error {
		for in, token := range tokens {
			if _, aborted := in.api.Abort(ctx, token); aborted != nil {
				err = errors.Join(err, fmt.Errorf("%s: abort: %w", in.Name, aborted))
			}
		}
		return err
	}
	for _, in := range f.all {
		p, err := in.api.Phase(ctx)
		if err != nil {
			return giveUp(err)
		}
		if p.Phase == to {
			continue
		}
		if p, err = in.api.Prepare(ctx, adminapi.PrepareRequest{Phase: to, LeaseSeconds: 600}, p.Epoch); err != nil {
			return giveUp(fmt.Errorf("%s: %w", in.Name, err))
		}
		tokens[in] = p.Prepared.Token
	}
	for in, token := range tokens {
		for {
			_, err := in.api.Commit(ctx, token)
			if err == nil {
				break
			}
			if !pause(ctx, 5*look) {
				return fmt.Errorf("%s: commit: %w", in.Name, err)
			}
		}
	}
	return nil
}

// walkTo goes to a phase step by step, and tries again what is refused. Both
// instances may be in different phases before.
func (f *fleet) walkTo(t *testing.T, to phase.Phase) {
	t.Helper()
	if err := f.walk(t.Context(), to); err != nil {
		t.Fatal(err)
	}
}

func (f *fleet) walk(ctx context.Context, to phase.Phase) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 2*patience, fmt.Errorf("not in %s after %s", to, 2*patience))
	defer cancel()
	for {
		next, err := f.next(ctx, to)
		if err == nil && next == phase.None {
			return nil
		}
		if err == nil {
			err = f.step(ctx, next)
		}
		if err != nil && !pause(ctx, 5*look) {
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
	}
}

// next is the step that the instance farthest from to takes; None if all are
// there.
func (f *fleet) next(ctx context.Context, to phase.Phase) (phase.Phase, error) {
	far := to
	for _, in := range f.all {
		p, err := in.api.Phase(ctx)
		if err != nil {
			return phase.None, err
		}
		distance := func(p phase.Phase) int { return max(int(p)-int(to), int(to)-int(p)) }
		if distance(p.Phase) > distance(far) {
			far = p.Phase
		}
	}
	switch {
	case far == to:
		return phase.None, nil
	case far == phase.None:
		return phase.DualWrite, nil
	case far > to:
		return far - 1, nil
	}
	return far + 1, nil
}

// eventually tries until there is no error.
func eventually(t *testing.T, within time.Duration, what string, try func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	for {
		err := try()
		if err == nil {
			return
		}
		if !pause(ctx, look) {
			t.Fatalf("%s: not within %s: %v", what, within, err)
		}
	}
}

// pause returns false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
