package lab

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

func TestAddressesAreCountedFromTheBase(t *testing.T) {
	t.Parallel()
	o := Options{BaseAddress: netip.MustParseAddr("127.61.8.0"), Nodes: 2, Proxies: 1}
	if err := o.complete(); err != nil {
		t.Fatal(err)
	}
	l := fromState("/lab", newState(o))
	got := append(l.Origin.ContactPoints(), l.Target.ContactPoints()...)
	got = append(got, l.Appliances[0].ListenAddress)
	if want := "127.61.9.1 127.61.9.2 127.61.10.1 127.61.10.2 127.61.11.1"; strings.Join(got, " ") != want {
		t.Errorf("addresses %v, want %s", got, want)
	}
	if l.Origin.Password == l.Target.Password || len(l.Origin.Password) < 20 {
		t.Errorf("passwords %q and %q, want two different long ones", l.Origin.Password, l.Target.Password)
	}
}

func TestEveryWrongOptionIsTold(t *testing.T) {
	t.Parallel()
	_, err := Up(t.Context(), Options{Dir: t.TempDir(), Nodes: 99, Proxies: -1, OriginVersion: "3.11.1", BaseAddress: netip.MustParseAddr("10.0.0.0")})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"nodes: 99", "proxies: -1", `"3.11.1"`, "10.0.0.0 is not of the form 127.x.y.0"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error does not have %q:\n%v", want, err)
		}
	}
}

func TestASecondUpTellsEachDifference(t *testing.T) {
	t.Parallel()
	first := Options{}
	if err := first.complete(); err != nil {
		t.Fatal(err)
	}
	s := newState(first)
	if err := s.adopt("/lab", Options{}); err != nil {
		t.Errorf("nothing asked for: %v", err)
	}
	if err := s.adopt("/lab", Options{Proxies: 2}); err != nil || s.Proxies != 2 {
		t.Errorf("two more proxies: %v, %d; want 2", err, s.Proxies)
	}
	if err := s.adopt("/lab", Options{Proxies: maxProxies + 1}); err == nil || s.Proxies != 2 {
		t.Errorf("%d proxies: %v, now %d; want a refusal", maxProxies+1, err, s.Proxies)
	}
	if err := s.adopt("/lab", Options{Proxies: 1}); err == nil || !strings.Contains(err.Error(), "proxies: it has 2, asked for 1") {
		t.Errorf("fewer proxies: %v, want the difference", err)
	}
	err := s.adopt("/lab", Options{Nodes: 3, TargetVersion: "5.0.3", BaseAddress: netip.MustParseAddr("127.9.0.0")})
	var differs *DiffersError
	if !errors.As(err, &differs) || len(differs.Differences) != 3 {
		t.Fatalf("error %v, want a *DiffersError with three differences", err)
	}
	if !strings.Contains(err.Error(), "nodes: it has 1, asked for 3") || !strings.Contains(err.Error(), "down --purge") {
		t.Errorf("error %q tells neither the difference nor what to do", err)
	}
}

func TestTheStateIsPrivateAndReadBack(t *testing.T) {
	t.Parallel()
	o := Options{Nodes: 2}
	if err := o.complete(); err != nil {
		t.Fatal(err)
	}
	dir, s := t.TempDir(), newState(o)
	if err := s.write(dir); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(statePath(dir))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", info.Mode(), err)
	}
	l, err := Open(dir)
	if err != nil || *l.state != *s || len(l.Origin.Nodes) != 2 {
		t.Errorf("read back %+v, %v; want %+v", l, err, s)
	}
	if _, err := Open(t.TempDir()); !errors.Is(err, errNoLab) {
		t.Errorf("open an empty folder: %v, want %v", err, errNoLab)
	}
	write(t, statePath(dir), "{", 0o600)
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "down --purge") {
		t.Errorf("open a broken state: %v, want what to do", err)
	}
}

func TestTwoUpsInOneFolderDoNotMeet(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	held, err := lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Up(t.Context(), Options{Dir: dir}); err == nil || !strings.Contains(err.Error(), "being brought up or down by process") {
		t.Errorf("second up: %v, want that another one is at work", err)
	}
	_ = held.Close()
	again, err := lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	_ = again.Close()
}

func TestALabWhoseAddressIsInUseIsNotMade(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.61.252.1:9042")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	dir := t.TempDir()
	var busy *AddressError
	if _, err := Up(t.Context(), Options{Dir: dir, BaseAddress: netip.MustParseAddr("127.61.251.0")}); !errors.As(err, &busy) {
		t.Errorf("up: %v, want an *AddressError", err)
	}
	if _, err := Open(dir); !errors.Is(err, errNoLab) {
		t.Errorf("the folder after it: %v, want none, so that another base address can be given", err)
	}
}

func TestWhoListensOnTheIPv6FormOfAnAddressIsFound(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp6", "[::ffff:127.61.250.3]:0")
	if err != nil {
		t.Skipf("SKIPPED, no IPv6 here: %v", err)
	}
	defer func() { _ = l.Close() }()
	if got := listener("127.61.250.3", l.Addr().(*net.TCPAddr).Port); got != os.Getpid() {
		t.Errorf("process %d, want %d", got, os.Getpid())
	}
}

func TestAnAddressInUseNamesWhoHasIt(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.61.250.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	port := l.Addr().(*net.TCPAddr).Port
	err = checkFree("127.61.250.1", port)
	var busy *AddressError
	if !errors.As(err, &busy) || !strings.Contains(busy.Holder, "process ") || !strings.Contains(err.Error(), "--base-address") {
		t.Errorf("error %v, want one that names the process and the way out", err)
	}
	if err := checkFree("127.61.250.2", port); err != nil {
		t.Errorf("the next address: %v", err)
	}
	// Not an address of this machine (TEST-NET-1).
	if err := checkFree("192.0.2.1", port); !errors.As(err, &busy) || busy.Holder != "" {
		t.Errorf("a foreign address: %v, want that it cannot be had, with no holder", err)
	}
}

func TestPurgeRefusesAFolderThatIsNoLab(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	precious := filepath.Join(dir, "thesis.tex")
	write(t, precious, "x", 0o600)
	if err := Purge(t.Context(), dir); err == nil || !strings.Contains(err.Error(), "not a lab's folder") {
		t.Errorf("purge: %v, want a refusal", err)
	}
	if _, err := os.Stat(precious); err != nil {
		t.Error(err)
	}
	if err := Purge(t.Context(), filepath.Join(dir, "gone")); err != nil {
		t.Errorf("purge what is not there: %v", err)
	}
}

func TestLogsOfAnUnknownProcessListTheKnownOnes(t *testing.T) {
	t.Parallel()
	o := Options{Proxies: 1}
	if err := o.complete(); err != nil {
		t.Fatal(err)
	}
	l := fromState(t.TempDir(), newState(o))
	write(t, l.Origin.Nodes[0].LogPath(), "one\ntwo\nthree\n", 0o600)
	var b strings.Builder
	if err := l.CopyLog(t.Context(), &b, "origin-1", 2, false); err != nil || b.String() != "two\nthree\n" {
		t.Errorf("copied %q, %v; want the last two lines", b.String(), err)
	}
	err := l.CopyLog(t.Context(), &b, "origin", 2, false)
	if err == nil || !strings.Contains(err.Error(), "origin-1, target-1, proxy-1, proxy-1/proxy") {
		t.Errorf("error %v, want the names", err)
	}
}
