// Tests of the whole product under faults: real agents and proxies between two
// real Cassandra clusters, an application that never pauses, and faults that are
// signals. They run one after the other, on one lab.
package main_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/internal/lab"
	"github.com/zdmproject/terraform-provider-zdm/internal/lab/labtest"
	"github.com/zdmproject/terraform-provider-zdm/internal/lab/load"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

func TestMain(m *testing.M) { labtest.Main(m, lab.Options{Proxies: 2}) }

// backWithin is how soon an agent must have its killed proxy serving again. It
// takes well under 2 s, which the log tells; the bound is for a busy machine.
const backWithin = 10 * time.Second

// freeze is how long a node is paused, requestTimeout how long a proxy waits for
// one (proxy_request_timeout_ms, which is not set).
const (
	freeze         = 5 * time.Second
	requestTimeout = 10 * time.Second
)

// A fault strikes, and returns when it is over and the application is well
// again. steady says that the phase is dual_write throughout.
type fault struct {
	name   string
	strike func(t *testing.T, f *fleet, app *application, steady bool)
}

var faults = []fault{
	{"a killed proxy", killProxy},
	{"a paused Target node", pauseTarget},
	{"a killed Target node", killTarget},
	{"a killed agent", killAgent},
}

func TestNoAcknowledgedWriteIsLostBy(t *testing.T) {
	for _, fault := range faults {
		t.Run(fault.name, func(t *testing.T) {
			f := ready(t)
			app := f.application(t)
			fault.strike(t, f, app, true)
			app.conclude()
		})
	}
}

func TestNoAcknowledgedWriteIsLostWhilePhasesChangeBy(t *testing.T) {
	for _, fault := range faults {
		t.Run(fault.name, func(t *testing.T) {
			f := ready(t)
			app := f.application(t)
			end := f.wander(t, app)
			fault.strike(t, f, app, false)
			end()
			app.awaitHealthy()
			app.conclude()
		})
	}
}

func TestPhaseChangesFailNoRequest(t *testing.T) {
	f := ready(t)
	app := f.application(t)
	for range 3 {
		for _, p := range lap {
			if err := app.SetPhase(p.String()); err != nil {
				t.Fatal(err)
			}
			f.walkTo(t, p)
			app.awaitAcked(20)
		}
	}
	app.stop()
	for _, failure := range app.watch.all() {
		t.Errorf("failed: %s", failure)
	}
	app.conclude()
}

// lap is a walk from dual_write that ends there.
var lap = []phase.Phase{phase.DualRead, phase.CutOver, phase.DualRead, phase.DualWrite}

// wander changes phases until the returned function is called, which leads back
// to dual_write. Steps may be refused meanwhile: they are tried again.
func (f *fleet) wander(t *testing.T, app *application) (end func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var (
		wg      sync.WaitGroup
		steps   atomic.Int32
		refused = map[string]int{}
	)
	wg.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			p := lap[i%len(lap)]
			for ctx.Err() == nil {
				// A step that was begun is brought to its end.
				bound, done := context.WithTimeout(context.WithoutCancel(ctx), patience)
				err := f.step(bound, p)
				done()
				if err == nil {
					steps.Add(1)
					break
				}
				line, _, _ := strings.Cut(err.Error(), "\n")
				refused[line]++
				pause(ctx, 10*look)
			}
			if err := app.SetPhase(p.String()); err != nil {
				t.Error(err)
			}
			pause(ctx, 20*look)
		}
	})
	once := sync.OnceFunc(func() {
		cancel()
		wg.Wait()
		t.Logf("%d steps taken meanwhile", steps.Load())
		for why, n := range refused {
			t.Logf("refused %d times: %s", n, why)
		}
	})
	t.Cleanup(once)
	return func() {
		eventually(t, patience, "a whole lap of phases", func() error {
			if n := int(steps.Load()); n < len(lap) {
				return fmt.Errorf("%d steps so far", n)
			}
			return nil
		})
		once()
		f.walkTo(t, phase.DualWrite)
		if err := app.SetPhase(phase.DualWrite.String()); err != nil {
			t.Error(err)
		}
	}
}

func killProxy(t *testing.T, f *fleet, app *application, steady bool) {
	in := f.all[0]
	before := in.status(t)
	app.meter.Take()
	struck := time.Now()
	pid, err := in.KillProxy(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, backWithin, "the client port of "+in.Name, func() error { return greet(t.Context(), in) })
	port := time.Since(struck)
	in.awaitServing(t, pid)
	t.Logf("killed proxy: its port answers again after %s, serving and ready after %s", ms(port), ms(time.Since(struck)))
	app.awaitHealthy()
	// The driver comes back to the killed one when it likes, which may be after
	// a minute.
	if other := app.meter.Take()[f.all[1].ListenAddress]; other.Requests == 0 || other.Failures > 0 {
		t.Errorf("the other instance served %d requests, of which %d failed; want some, and none", other.Requests, other.Failures)
	}

	after := in.status(t)
	if after.Restarts != before.Restarts+1 || after.Generation != before.Generation {
		t.Errorf("restarts %d, generation %d; want %d and %d", after.Restarts, after.Generation, before.Restarts+1, before.Generation)
	}
	if steady && (after.Phase.Phase != before.Phase.Phase || after.Phase.Epoch != before.Phase.Epoch) {
		t.Errorf("phase %s, epoch %d; want %s and %d as before", after.Phase.Phase, after.Phase.Epoch, before.Phase.Phase, before.Phase.Epoch)
	}
	// Each worker has one request in flight, so no more than that were there.
	failures := app.watch.since(struck)
	if len(failures) > workers {
		t.Errorf("%d requests failed; only %d can have been in flight", len(failures), workers)
	}
	for _, failure := range failures {
		if failure.kind() != closed || failure.latency > atOnce || failure.began.After(struck.Add(atOnce)) {
			t.Errorf("only requests in flight may fail, by their closed connection, at once: killed at %s, %s", struck.Format("15:04:05.000"), failure)
		}
	}
}

// greet asks the client port for SUPPORTED, the least that a driver asks.
func greet(ctx context.Context, in *instance) error {
	dialer := net.Dialer{Timeout: time.Second}
	nc, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(in.ListenAddress, strconv.Itoa(in.Port)))
	if err != nil {
		return err
	}
	defer nc.Close()
	if err := nc.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	const options, supported = "\x04\x00\x00\x00\x05\x00\x00\x00\x00", 0x06
	if _, err := nc.Write([]byte(options)); err != nil {
		return err
	}
	head := make([]byte, len(options))
	if _, err := nc.Read(head); err != nil {
		return err
	}
	if head[4] != supported {
		return fmt.Errorf("opcode 0x%02x in answer to OPTIONS", head[4])
	}
	return nil
}

func pauseTarget(t *testing.T, f *fleet, app *application, steady bool) {
	node := f.Target.Nodes[0]
	t.Cleanup(func() { _ = node.Continue() })
	struck := time.Now()
	if err := node.Stop(); err != nil {
		t.Fatal(err)
	}
	readable := app.readOn()
	pause(t.Context(), freeze)
	if err := node.Continue(); err != nil {
		t.Fatal(err)
	}
	continued := time.Now()
	reads, longest, failed := readable()
	app.awaitHealthy()
	t.Logf("paused node: %d reads meanwhile, the longest %s; writes flow %s after its end", reads, ms(longest), ms(time.Since(continued)))
	if steady && (reads == 0 || longest > atOnce || failed != nil) {
		t.Errorf("Origin answers reads: %d while Target was paused, the longest %s, error %v", reads, longest, failed)
	}
	app.onlyAnswers(struck, requestTimeout+atOnce)
}

func killTarget(t *testing.T, f *fleet, app *application, steady bool) {
	node := f.Target.Nodes[0]
	struck := time.Now()
	if err := node.Kill(); err != nil {
		t.Fatal(err)
	}
	readable := app.readOn()
	if err := node.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	started := time.Now()
	reads, longest, failed := readable()
	app.awaitHealthy()
	t.Logf("killed node: away for %s with %d reads, the longest %s; writes flow %s after its start", ms(started.Sub(struck)), reads, ms(longest), ms(time.Since(started)))
	for _, in := range f.all {
		in.awaitServing(t, 0)
	}
	t.Logf("the instances are ready %s after its start", ms(time.Since(started)))
	if steady && (reads == 0 || longest > atOnce || failed != nil) {
		t.Errorf("Origin answers reads: %d while Target was away, the longest %s, error %v", reads, longest, failed)
	}
	app.onlyAnswers(struck, atOnce)
}

// onlyAnswers fails the test if since then a request failed in another way than
// by an error of the protocol, or took longer: a node's fault closes no client's
// connection.
func (a *application) onlyAnswers(since time.Time, within time.Duration) {
	a.t.Helper()
	bad := 0
	for _, failure := range a.watch.since(since) {
		if failure.latency <= within && strings.HasPrefix(string(failure.kind()), string(answered)) {
			continue
		}
		if bad++; bad <= 5 {
			a.t.Errorf("a request was not answered within %s: %s", within, failure)
		}
	}
}

func killAgent(t *testing.T, f *fleet, app *application, steady bool) {
	in := f.all[0]
	before, struck := in.status(t), time.Now()
	// A phase change's proof opens and closes connections to nodes.
	keep := func(local, _ string) bool { return steady || local == in.socket() }
	sockets := connections(t, before.Proxy.PID, keep)
	if err := in.Kill(); err != nil {
		t.Fatal(err)
	}
	app.awaitAcked(50)
	if err := in.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	in.awaitServing(t, 0)
	after := in.status(t)
	if after.Proxy.PID != before.Proxy.PID || after.Restarts != 0 || after.Generation != before.Generation {
		t.Errorf("proxy pid %d, %d restarts, generation %d; want the adopted process %d, 0 and %d",
			after.Proxy.PID, after.Restarts, after.Generation, before.Proxy.PID, before.Generation)
	}
	if steady && (after.Phase.Phase != before.Phase.Phase || after.Phase.Epoch != before.Phase.Epoch) {
		t.Errorf("phase %s, epoch %d; want %s and %d as before", after.Phase.Phase, after.Phase.Epoch, before.Phase.Phase, before.Phase.Epoch)
	}
	now := connections(t, after.Proxy.PID, keep)
	for inode, where := range sockets {
		if now[inode] == "" {
			t.Errorf("the connection %s was closed", where)
		}
	}
	t.Logf("killed agent: %d connections of its proxy untouched", len(sockets))
	app.awaitHealthy()
	for _, failure := range app.watch.since(struck) {
		t.Errorf("failed: %s", failure)
	}
}

// readOn reads through the instances, one read after the other, until the
// returned function is called. The load cannot tell: its workers may all wait
// for writes.
//
// A statement that the driver has not prepared yet cannot be read with while one
// side is silent: its PREPARE goes to both.
func (a *application) readOn() (end func() (reads int, longest time.Duration, err error)) {
	a.t.Helper()
	ctx, cancel := context.WithCancel(a.t.Context())
	client := load.NewCQL(a.session)
	var (
		wg      sync.WaitGroup
		reads   int
		longest time.Duration
		failed  error
	)
	wg.Go(func() {
		for pause(ctx, look) {
			began := time.Now()
			_, err := client.Read(context.WithoutCancel(ctx), nobodys, load.Style(reads%2))
			longest = max(longest, time.Since(began))
			if err != nil {
				failed = errors.Join(failed, err)
			} else {
				reads++
			}
		}
	})
	a.t.Cleanup(cancel)
	return func() (int, time.Duration, error) {
		cancel()
		wg.Wait()
		return reads, longest, failed
	}
}

// connections returns the established TCP connections of a process that are to
// be kept, by inode, which no two sockets share. Ends are as in proc(5).
func connections(t *testing.T, pid int, keep func(local, remote string) bool) map[string]string {
	t.Helper()
	table, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/tcp", pid))
	if err != nil {
		t.Fatal(err)
	}
	const established, local, remote, state, inode = "01", 1, 2, 3, 9
	where := make(map[string]string)
	for line := range strings.Lines(string(table)) {
		if fields := strings.Fields(line); len(fields) > inode && fields[state] == established && keep(fields[local], fields[remote]) {
			where["socket:["+fields[inode]+"]"] = fields[local] + " to " + fields[remote]
		}
	}
	dir := fmt.Sprintf("/proc/%d/fd/", pid)
	open, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]string)
	for _, fd := range open {
		if link, err := os.Readlink(dir + fd.Name()); err == nil && where[link] != "" {
			out[link] = where[link]
		}
	}
	return out
}

// socket is the client port as proc(5) writes it, with the address's bytes in
// this machine's order.
func (in *instance) socket() string {
	b := netip.MustParseAddr(in.ListenAddress).As4()
	return fmt.Sprintf("%08X:%04X", binary.NativeEndian.Uint32(b[:]), in.Port)
}

// restartRounds is how often each instance is restarted.
const restartRounds = 3

func TestARollingRestartFailsNoRequestAndClosesNoClient(t *testing.T) {
	f := ready(t)
	app := f.application(t)
	driver := func(in *instance) map[string]string {
		return connections(t, os.Getpid(), func(_, remote string) bool { return remote == in.socket() })
	}
	requests, clients := app.Stats().Total.Requests, 0
	for range restartRounds {
		for _, in := range f.all {
			before, sockets := in.status(t), driver(in)
			clients += len(sockets)
			began := time.Now()
			after, err := in.api.Restart(t.Context(), "a test of rolling restarts")
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%s: restarted in %s", in.Name, ms(time.Since(began)))
			if after.State != adminapi.Serving || after.Proxy.PID == before.Proxy.PID || after.Restarts != before.Restarts || after.Phase.Epoch != before.Phase.Epoch {
				t.Errorf("after the restart: %+v; want another process in the same phase, and no crash", after)
			}
			in.awaitServing(t, before.Proxy.PID)
			app.awaitAcked(50)
			for inode := range driver(in) {
				delete(sockets, inode)
			}
			for _, where := range sockets {
				t.Errorf("%s: the driver's connection %s was closed", in.Name, where)
			}
		}
	}
	requests = app.Stats().Total.Requests - requests
	failures := app.watch.all()
	t.Logf("%d restarts under %d requests a second: %d of %d requests failed (%s); %d connections moved", restartRounds*len(f.all), rate, len(failures), requests, app.watch.summary(), clients)
	for _, failure := range failures {
		t.Errorf("failed: %s", failure)
	}
	app.conclude()
}
