package appliance_test

import (
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// serving is an instance with generation 1 in dual_write, epoch 1.
func serving(t *testing.T) *instance {
	t.Helper()
	in := newInstance(t)
	in.put(hostGood, 0)
	in.step(phase.DualWrite, 0)
	return in
}

func TestNewConfigurationTakesTheListenerOverAndTheOldProcessDrains(t *testing.T) {
	t.Parallel()
	in := serving(t)
	before := in.status().Proxy.PID
	old := in.connect()
	if got, want := old.ask(t), "1 dual_write 1"; got != want {
		t.Fatalf("before: %q, want %q", got, want)
	}
	// No connection is refused at any time.
	stop, refused := make(chan struct{}), make(chan error, 1)
	pace := time.NewTicker(time.Millisecond)
	defer pace.Stop()
	go func() {
		defer close(refused)
		for {
			select {
			case <-stop:
				return
			case <-pace.C: // faster, and the kernel's queue of the fake is full at times
			}
			conn, err := net.DialTimeout("tcp", old.conn.RemoteAddr().String(), 5*time.Second)
			if err != nil {
				refused <- err
				return
			}
			conn.Close()
		}
	}()
	conf := in.config(hostGood)
	conf.Settings["proxy_max_stream_ids"] = "500"
	got, err := in.c.PutConfig(t.Context(), conf, 1)
	close(stop)
	if err != nil {
		t.Fatal(err)
	}
	if err := <-refused; err != nil {
		t.Errorf("a connection was refused during the change: %v", err)
	}
	if got.Generation != 2 || got.Running != 2 {
		t.Errorf("generation %d, running %d; want 2 and 2", got.Generation, got.Running)
	}
	if got, want := in.connect().ask(t), "2 dual_write 1"; got != want {
		t.Errorf("a new client is told %q, want %q", got, want)
	}
	in.await("rid of the old process", func(st *adminapi.Status) bool {
		return st.Ready && st.Proxy.PID != before && len(in.processes()) == 1
	})
	if st := in.status(); st.Restarts != 0 {
		t.Errorf("%d crashes counted for a change", st.Restarts)
	}
}

func TestFailedChangeLeavesTheLastGoodGenerationRunning(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, host, reason string }{
		{"refused by the proxy", hostRefused, "the fake does not like it"},
		{"cluster away", hostAway, "no such host"},
		{"process crashes", hostCrash, "the fake was told to crash"},
		{"port cannot be opened", hostNoServe, "address already in use"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			in := serving(t)
			old := in.connect()
			pid := in.status().Proxy.PID
			_, err := in.c.PutConfig(t.Context(), in.config(test.host), 1)
			p := wantProblem(t, err, "apply-failed", 502)
			if !strings.Contains(p.Error(), test.reason) || !strings.Contains(p.Detail, "generation 1 runs on") {
				t.Errorf("the problem says neither why nor what runs: %v", p)
			}
			if got, want := old.ask(t), "1 dual_write 1"; got != want {
				t.Errorf("the client from before is told %q, want %q", got, want)
			}
			st := in.await("ready", ready)
			if st.Generation != 1 || st.Running != 1 || st.Proxy.PID != pid || st.Restarts != 0 {
				t.Errorf("generation %d, running %d, pid %d (was %d), %d crashes", st.Generation, st.Running, st.Proxy.PID, pid, st.Restarts)
			}
			// A generation that failed is not used again.
			if got := in.put("other.example", 1); got.Generation != 3 {
				t.Errorf("the next generation is %d, want 3", got.Generation)
			}
		})
	}
}

func TestFirstConfigurationThatFailsLeavesTheInstanceLocked(t *testing.T) {
	t.Parallel()
	in := newInstance(t)
	_, err := in.c.PutConfig(t.Context(), in.config(hostRefused), 0)
	wantProblem(t, err, "apply-failed", 502)
	if st := in.status(); st.State != adminapi.Locked || st.Generation != 0 {
		t.Errorf("%s with generation %d, want locked with 0", st.State, st.Generation)
	}
	in.await("rid of the process", func(*adminapi.Status) bool { return len(in.processes()) == 0 })
}

func TestEqualDocumentChangesNothing(t *testing.T) {
	t.Parallel()
	in := serving(t)
	pid := in.status().Proxy.PID
	without := in.config(hostGood)
	without.Secrets = nil // omitted ones keep what is stored
	for _, conf := range []*adminapi.Config{in.config(hostGood), without} {
		// Also with a stale ETag: the answer to the first may have been lost.
		for _, etag := range []uint64{1, 0} {
			got, err := in.c.PutConfig(t.Context(), conf, etag)
			if err != nil || got.Generation != 1 || got.Applied != adminapi.Unchanged {
				t.Fatalf("an equal document with If-Match %d: %+v, %v", etag, got, err)
			}
		}
	}
	if got := in.status().Proxy.PID; got != pid {
		t.Error("the process was replaced")
	}
}

func TestCheckedDocumentChangesNothingEither(t *testing.T) {
	t.Parallel()
	in := serving(t)
	before := in.status()
	if got, err := in.c.CheckConfig(t.Context(), in.config(hostGood), 1); err != nil || got.Applied != adminapi.Unchanged {
		t.Errorf("an equal one: %+v, %v", got, err)
	}
	if got, err := in.c.CheckConfig(t.Context(), in.config("other.example"), 1); err != nil || got.Applied != adminapi.Replaced || got.Generation != 1 {
		t.Errorf("another one: %+v, %v", got, err)
	}
	_, err := in.c.CheckConfig(t.Context(), in.config("other.example"), 9)
	wantProblem(t, err, "stale", 412)
	bad := in.config("other.example")
	bad.Settings["origin_port"] = "many"
	_, err = in.c.CheckConfig(t.Context(), bad, 1)
	wantProblem(t, err, "invalid-config", 422)
	if after := in.status(); after.Proxy.PID != before.Proxy.PID || after.Generation != 1 {
		t.Errorf("generation %d in process %d, was 1 in %d", after.Generation, after.Proxy.PID, before.Proxy.PID)
	}
	if got, err := in.c.PutConfig(t.Context(), in.config("other.example"), 1); err != nil || got.Applied != adminapi.Replaced {
		t.Errorf("applied: %+v, %v", got, err)
	}
}

func TestHotSettingIsTakenByTheRunningProcess(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, host string
		want       adminapi.Applied
	}{
		{"taken", hostGood, adminapi.Hot},
		{"an older program does not take it", hostOlder, adminapi.Replaced},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			in := newInstance(t)
			in.put(test.host, 0)
			in.step(phase.DualWrite, 0)
			pid := in.status().Proxy.PID
			conf := in.config(test.host)
			conf.Settings["log_level"] = "DEBUG"
			if got, err := in.c.CheckConfig(t.Context(), conf, 1); err != nil || got.Applied != adminapi.Hot {
				t.Errorf("what would be: %+v, %v", got, err)
			}
			got, err := in.c.PutConfig(t.Context(), conf, 1)
			if err != nil || got.Applied != test.want || got.Generation != 2 || got.Running != 2 {
				t.Fatalf("%+v, %v", got, err)
			}
			if same := in.status().Proxy.PID == pid; same != (test.want == adminapi.Hot) {
				t.Errorf("the same process runs: %t", same)
			}
			if got, want := in.connect().ask(t), "2 dual_write 1"; got != want {
				t.Errorf("a client is told %q, want %q", got, want)
			}
			// The next agent finds it so.
			in.stop()
			in.start()
			if st := in.await("ready", ready); st.Running != 2 || st.Restarts != 0 {
				t.Errorf("after a restart of the agent: generation %d, %d crashes", st.Running, st.Restarts)
			}
		})
	}
}

func TestHotSettingThatCannotBeStoredIsTakenBack(t *testing.T) {
	t.Parallel()
	in := serving(t)
	pid := in.status().Proxy.PID
	in.fullAfter.Store(1) // what is wanted is stored, and not that it was done
	conf := in.config(hostGood)
	conf.Settings["log_level"] = "DEBUG"
	_, err := in.c.PutConfig(t.Context(), conf, 1)
	wantProblem(t, err, "apply-failed", 502)
	in.full.Store(false)
	st := in.await("back", func(st *adminapi.Status) bool { return st.Ready && st.Proxy.Generation == 1 })
	if st.Generation != 1 || st.Proxy.PID != pid {
		t.Errorf("generation %d in process %d, want 1 in %d", st.Generation, st.Proxy.PID, pid)
	}
}

func TestOmittedSecretKeepsAndEmptyOneRemoves(t *testing.T) {
	t.Parallel()
	in := newInstance(t)
	first := in.put(hostGood, 0)
	conf := in.config(hostGood)
	conf.Secrets = map[string]string{"origin_password": "another-" + originPassword}
	second, err := in.c.PutConfig(t.Context(), conf, 1)
	if err != nil {
		t.Fatal(err)
	}
	if second.Secrets["target_password"] != first.Secrets["target_password"] || second.Secrets["origin_password"] == first.Secrets["origin_password"] {
		t.Errorf("digests before %v, after %v: want origin's changed and target's kept", first.Secrets, second.Secrets)
	}
	conf.Secrets = map[string]string{"origin_password": ""}
	_, err = in.c.PutConfig(t.Context(), conf, 2)
	p := wantProblem(t, err, "invalid-config", 422)
	if !strings.Contains(strings.Join(p.Problems, "\n"), "origin_password") {
		t.Errorf("the removed password is not missed: %q", p.Problems)
	}
}

func TestEveryProblemOfADocumentIsTold(t *testing.T) {
	t.Parallel()
	in := newInstance(t)
	conf := in.config(hostGood)
	conf.Instance = ""
	conf.Settings["origin_port"] = "70000"
	conf.Settings["primary_cluster"] = "TARGET"
	conf.Settings["no_such_setting"] = "1"
	conf.Settings["target_password"] = targetPassword
	delete(conf.Secrets, "target_password")
	conf.Secrets["origin_username"] = "app"
	_, err := in.c.PutConfig(t.Context(), conf, 0)
	p := wantProblem(t, err, "invalid-config", 422)
	all := strings.Join(p.Problems, "\n")
	for _, want := range []string{"instance: ", "origin_port: ", "primary_cluster: ", "no_such_setting: ", "target_password: is a secret", "origin_username: is not a secret"} {
		if !strings.Contains("\n"+all, "\n"+want) {
			t.Errorf("no problem begins with %q in:\n%s", want, all)
		}
	}
	if strings.Contains(p.Error(), targetPassword) {
		t.Error("the problem shows a secret")
	}
}

func TestStaleAndForeignRequestsAreRefused(t *testing.T) {
	t.Parallel()
	in := serving(t)
	_, err := in.c.PutConfig(t.Context(), in.config("other.example"), 7)
	wantProblem(t, err, "stale", 412)
	_, err = in.c.Prepare(t.Context(), adminapi.PrepareRequest{Phase: phase.DualRead}, 0)
	wantProblem(t, err, "stale", 412)
	conf := in.config(hostGood)
	conf.ClusterID = "cluster-2"
	_, err = in.c.PutConfig(t.Context(), conf, 1)
	wantProblem(t, err, "conflict", 409)
}

func TestRestartReplacesTheProcess(t *testing.T) {
	t.Parallel()
	in := serving(t)
	before := in.status().Proxy.PID
	st, err := in.c.Restart(t.Context(), "new binary")
	if err != nil {
		t.Fatal(err)
	}
	if st.Proxy == nil || st.Proxy.PID == before || st.Running != 1 || !st.Ready || st.Restarts != 0 {
		t.Errorf("after a restart: %+v", st)
	}
	if got, want := in.connect().ask(t), "1 dual_write 1"; got != want {
		t.Errorf("a client is told %q, want %q", got, want)
	}
	_, err = newInstance(t).c.Restart(t.Context(), "")
	wantProblem(t, err, "not-ready", 409)
}

func TestKilledProxyIsBackWithinTwoSeconds(t *testing.T) {
	t.Parallel()
	in := serving(t)
	for round := range 3 {
		pid := in.status().Proxy.PID
		begin := time.Now()
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		st := in.await("back", func(st *adminapi.Status) bool { return st.Ready && st.Proxy.PID != pid })
		if took := time.Since(begin); took > 2*time.Second {
			t.Errorf("round %d: back after %s", round, took)
		}
		if st.Restarts != round+1 || len(st.Child) == 0 || !strings.Contains(st.Child[0], "fake proxy is idle") {
			t.Errorf("round %d: %d crashes, last output %q", round, st.Restarts, st.Child)
		}
		if got, want := in.connect().ask(t), "1 dual_write 1"; got != want {
			t.Errorf("round %d: a client is told %q, want %q", round, got, want)
		}
	}
}

func TestProcessKilledDuringAChangeIsReplacedByTheNewOne(t *testing.T) {
	t.Parallel()
	in := serving(t)
	pid := in.status().Proxy.PID
	answered := make(chan error, 1)
	go func() {
		_, err := in.c.PutConfig(t.Context(), in.config(hostAway), 1)
		answered <- err
	}()
	in.await("applying", func(st *adminapi.Status) bool { return st.Generation == 2 && st.Running == 1 })
	if _, err := in.c.PutConfig(t.Context(), in.config("other.example"), 1); err == nil {
		t.Error("a second change began during the first")
	} else {
		wantProblem(t, err, "conflict", 409)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	// The old generation comes back beside the change, which still waits.
	in.await("back with generation 1", func(st *adminapi.Status) bool {
		return st.Proxy != nil && st.Proxy.PID != pid && st.Running == 1 && st.Proxy.ListenAddress != ""
	})
	wantProblem(t, <-answered, "apply-failed", 502)
	in.await("ready", ready)
}

func TestRestartOfTheAgentTouchesNoConnection(t *testing.T) {
	t.Parallel()
	in := serving(t)
	s := in.connect()
	pid := in.status().Proxy.PID
	in.stop()
	if got, want := s.ask(t), "1 dual_write 1"; got != want {
		t.Fatalf("without an agent: %q, want %q", got, want)
	}
	in.start()
	st := in.await("ready", ready)
	if st.Proxy.PID != pid || st.Restarts != 0 || st.State != adminapi.Serving {
		t.Errorf("the new agent runs pid %d, want %d; %d crashes", st.Proxy.PID, pid, st.Restarts)
	}
	if got, want := s.ask(t), "1 dual_write 1"; got != want {
		t.Errorf("after: %q, want %q", got, want)
	}
	// An adopted process is watched as a child is.
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	in.await("back", func(st *adminapi.Status) bool { return st.Ready && st.Proxy.PID != pid })
}

func TestStoredPhaseIsServedAfterAReboot(t *testing.T) {
	t.Parallel()
	in := serving(t)
	in.step(phase.DualRead, 1)
	in.stop()
	for _, pid := range in.processes() {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	in.start()
	in.await("serving", ready)
	if got, want := in.connect().ask(t), "1 dual_read 2"; got != want {
		t.Errorf("a client is told %q, want %q", got, want)
	}
}

func TestChangeInterruptedByTheEndOfTheAgentIsGivenUp(t *testing.T) {
	t.Parallel()
	in := serving(t)
	pid := in.status().Proxy.PID
	go func() { _, _ = in.c.PutConfig(t.Context(), in.config(hostAway), 1) }()
	in.await("applying", func(st *adminapi.Status) bool { return st.Generation == 2 })
	in.stop()
	in.start()
	st := in.await("ready", ready)
	if st.Generation != 1 || st.Proxy.PID != pid {
		t.Errorf("generation %d, pid %d; want 1, %d", st.Generation, st.Proxy.PID, pid)
	}
	in.await("rid of the new process", func(*adminapi.Status) bool { return len(in.processes()) == 1 })
}
