package supervise

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
)

// identity tells a process from every other that ever had its pid.
type identity struct {
	PID int `json:"pid"`
	// Start is in clock ticks since boot: field 22 of /proc/PID/stat.
	Start uint64 `json:"start"`
	Boot  string `json:"boot"`
}

var bootID = sync.OnceValue(func() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b))
})

// identify returns the identity of a pid. One that has ended and waits for its
// parent has an identity, and does not run.
func identify(pid int) (id identity, runs bool, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return identity{}, false, err
	}
	// The command name is in parentheses and may hold anything, so fields are
	// counted from the last one: the state is field 3.
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(fields) < 20 {
		return identity{}, false, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields)+2)
	}
	runs = fields[0][0] != 'Z' && fields[0][0] != 'X'
	start, err := strconv.ParseUint(string(fields[19]), 10, 64)
	return identity{pid, start, bootID()}, runs, err
}

// alive reports whether the process still runs.
func (id identity) alive() bool {
	now, runs, err := identify(id.PID)
	return err == nil && runs && now == id
}

// controlling returns the processes of ours that were started with one of the
// sockets as an argument: what is left of an agent that was killed between a
// start and the pidfile.
func controlling(isSocket func(string) bool) map[string]identity {
	out := map[string]identity{}
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		args, err := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		if err != nil {
			continue
		}
		for arg := range strings.SplitSeq(string(args), "\x00") {
			if !isSocket(arg) {
				continue
			}
			if id, runs, err := identify(pid); err == nil && runs {
				out[arg] = id
			}
		}
	}
	return out
}
