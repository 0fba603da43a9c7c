package lab

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// stateFormat grows when an older lab could not be understood any more.
const stateFormat = 1

// state is state.json: what a lab is, written before its first process starts.
// It holds the lab's passwords, so its mode is 0600.
type state struct {
	Format      int        `json:"format"`
	BaseAddress netip.Addr `json:"base_address"`
	Nodes       int        `json:"nodes"`
	Proxies     int        `json:"proxies"`
	// By side.
	Versions  [2]string `json:"versions"`
	Passwords [2]string `json:"passwords"`
	// Where things were found at the last Up, for starts from elsewhere.
	Java string    `json:"java"`
	Jars [2]string `json:"jars"`
	// Binaries is the folder that was given with Options.
	Binaries string `json:"binaries,omitempty"`
}

func statePath(dir string) string { return filepath.Join(dir, "state.json") }

// errNoLab is returned for a folder without a lab.
var errNoLab = errors.New("there is no lab")

func readState(dir string) (*state, error) {
	b, err := os.ReadFile(statePath(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w in %s; make one with zdm-lab up, or name its folder with --dir", errNoLab, dir)
	}
	if err != nil {
		return nil, err
	}
	var s state
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("read %s: %w; zdm-lab down --purge ends what runs there and removes it", statePath(dir), err)
	}
	if s.Format != stateFormat {
		return nil, fmt.Errorf("read %s: format %d, this program knows %d; zdm-lab down --purge ends what runs there and removes it", statePath(dir), s.Format, stateFormat)
	}
	return &s, nil
}

func (s *state) write(dir string) error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return renameio.WriteFile(statePath(dir), append(b, '\n'), 0o600)
}

// newState makes the state of a new lab.
func newState(o Options) *state {
	s := &state{Format: stateFormat, BaseAddress: o.BaseAddress, Nodes: o.Nodes, Proxies: o.Proxies, Versions: [2]string{o.OriginVersion, o.TargetVersion}}
	for _, side := range phase.Sides {
		// Different on the two sides, so that a mix-up fails; of no common
		// substring with anything else, so that a test can look for a leak.
		s.Passwords[side] = side.String() + "-" + randomText(12)
	}
	return s
}

// randomText returns 2n hex digits.
func randomText(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// A DiffersError tells in what an existing lab is not the one that is asked for.
type DiffersError struct {
	Dir         string
	Differences []string // "nodes: it has 1, asked for 3"
}

func (e *DiffersError) Error() string {
	return fmt.Sprintf("the lab in %s is another one (%s); remove it first with zdm-lab down --purge, or make one beside it with another --dir and --base-address",
		e.Dir, strings.Join(e.Differences, "; "))
}

// adopt checks what is asked for against an existing lab. What is not given is
// as the lab has it; proxies may be added, everything else is fixed.
func (s *state) adopt(dir string, asked Options) error {
	e := &DiffersError{Dir: dir}
	differ := func(what string, has, want any) {
		e.Differences = append(e.Differences, fmt.Sprintf("%s: it has %v, asked for %v", what, has, want))
	}
	if asked.BaseAddress.IsValid() && asked.BaseAddress != s.BaseAddress {
		differ("base address", s.BaseAddress, asked.BaseAddress)
	}
	if asked.Nodes != 0 && asked.Nodes != s.Nodes {
		differ("nodes", s.Nodes, asked.Nodes)
	}
	for side, v := range [2]string{asked.OriginVersion, asked.TargetVersion} {
		if v != "" && v != s.Versions[side] {
			differ(phase.Side(side).String()+" version", s.Versions[side], v)
		}
	}
	if asked.Proxies != 0 && asked.Proxies < s.Proxies {
		differ("proxies", s.Proxies, asked.Proxies)
	}
	if len(e.Differences) > 0 {
		return e
	}
	if asked.Proxies > maxProxies {
		return fmt.Errorf("proxies: %d is above %d; ask for fewer", asked.Proxies, maxProxies)
	}
	s.Proxies = max(s.Proxies, asked.Proxies)
	return nil
}

// lock keeps other Up and Down calls away from the folder, in this process and
// in others. The caller closes the file to let go; the kernel does, should the
// process die.
func lock(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer func() { _ = f.Close() }()
		if errors.Is(err, unix.EWOULDBLOCK) {
			who := "another process"
			if pid, err := os.ReadFile(f.Name()); err == nil && len(pid) > 0 {
				who = "process " + string(pid)
			}
			return nil, fmt.Errorf("the lab in %s is being brought up or down by %s; wait for it, or end it", dir, who)
		}
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	// The text is for the message above only.
	if err := f.Truncate(0); err == nil {
		_, _ = fmt.Fprint(f, os.Getpid())
	}
	return f, nil
}
