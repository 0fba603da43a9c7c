package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/internal/lab/cassandra"
)

// Ports, the same on every address. Clients find a proxy on the port that they
// know from Cassandra.
const (
	clientPort  = cassandra.NativePort
	adminPort   = adminapi.DefaultPort
	metricsPort = 14001
)

// defaultBase is where a lab is if nobody says otherwise.
var defaultBase = netip.AddrFrom4([4]byte{127, 50, 0, 0})

// The third byte of an address, counted from the base address.
const (
	groupOrigin = 1
	groupTarget = 2
	groupProxy  = 3
	groupAlone  = 4 // proxies without an agent
)

// checkBase accepts 127.x.y.0 with room for the groups above it.
func checkBase(base netip.Addr) error {
	if base.Is4() {
		if b := base.As4(); b[0] == 127 && b[3] == 0 && int(b[2])+groupAlone <= 255 {
			return nil
		}
	}
	return fmt.Errorf("base address %s is not of the form 127.x.y.0 with y below %d", base, 256-groupAlone)
}

// address returns the n-th address (from 1) of a group.
func address(base netip.Addr, group, n int) string {
	b := base.As4()
	b[2] += byte(group)
	b[3] = byte(n)
	return netip.AddrFrom4(b).String()
}

// An AddressError tells that an address of the lab cannot be listened on.
type AddressError struct {
	Address string
	Holder  string // "process 4711 (java)"; "" if it is not that somebody has it
	Err     error
}

func (e *AddressError) Error() string {
	if e.Holder != "" {
		return fmt.Sprintf("listen on %s: in use by %s; end it, or choose another --base-address", e.Address, e.Holder)
	}
	return fmt.Sprintf("listen on %s: %v; choose another --base-address", e.Address, e.Err)
}

func (e *AddressError) Unwrap() error { return e.Err }

// checkFree reports who has an address, if anyone, as *AddressError.
func checkFree(host string, port int) error {
	at := net.JoinHostPort(host, strconv.Itoa(port))
	l, err := net.Listen("tcp", at)
	if err == nil {
		return l.Close()
	}
	e := &AddressError{Address: at, Err: err}
	if errors.Is(err, syscall.EADDRINUSE) {
		e.Holder = "another process"
		if pid := listener(host, port); pid != 0 {
			e.Holder = describe(pid)
		}
	}
	return e
}

// describe names a process for people; of one of another lab, that lab.
func describe(pid int) string {
	if environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid)); err == nil {
		for v := range strings.SplitSeq(string(environ), "\x00") {
			if dir, ok := strings.CutPrefix(v, ownerVariable+"="); ok {
				return fmt.Sprintf("process %d of the lab in %s", pid, dir)
			}
		}
	}
	name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	return fmt.Sprintf("process %d (%s)", pid, strings.TrimSpace(string(name)))
}

// listener returns the pid that listens on the address or on all addresses with
// that port; 0 if it cannot be told.
func listener(host string, port int) int {
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return 0
	}
	// The kernel prints the address as the hex of a native-endian word. Java
	// listens on the IPv6 form of an address, ::ffff:127.50.1.1.
	b := addr.As4()
	at := fmt.Sprintf("%02X%02X%02X%02X:%04X", b[3], b[2], b[1], b[0], port)
	want := map[string]bool{
		at:                                 true,
		"0000000000000000FFFF0000" + at:    true,
		fmt.Sprintf("00000000:%04X", port): true,
		strings.Repeat("0", 32) + fmt.Sprintf(":%04X", port): true,
	}
	sockets := map[string]bool{}
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		text, _ := os.ReadFile(table)
		for line := range strings.Lines(string(text)) {
			f := strings.Fields(line)
			if len(f) > 9 && want[f[1]] && f[3] == "0A" { // LISTEN
				sockets["socket:["+f[9]+"]"] = true
			}
		}
	}
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil && sockets[to] {
			pid, _ := strconv.Atoi(strings.Split(link, "/")[2])
			return pid
		}
	}
	return 0
}
