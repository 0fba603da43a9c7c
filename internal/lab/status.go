package lab

import (
	"context"
	"net"
	"strconv"
	"time"
)

// Status is one look at the processes of a lab.
type Status struct {
	Dir         string    `json:"dir"`
	BaseAddress string    `json:"base_address"`
	Processes   []Process `json:"processes"`
}

// Process is one of them.
type Process struct {
	Name string `json:"name"`
	// PID is 0 while the process does not run.
	PID     int          `json:"pid"`
	State   ProcessState `json:"state"`
	Address string       `json:"address"`
	Version string       `json:"version"`
	// MemoryBytes is the resident set.
	MemoryBytes int64  `json:"memory_bytes"`
	Log         string `json:"log"`
	// Detail is the state of an agent, the phase of a proxy.
	Detail string `json:"detail,omitempty"`
}

// ProcessState is what a process does.
type ProcessState string

// The states. A process is starting until its port is open.
const (
	Ended    ProcessState = "down"
	Starting ProcessState = "starting"
	Paused   ProcessState = "paused"
	Ready    ProcessState = "up"
)

// Status looks at every process of the lab.
func (l *Lab) Status(ctx context.Context) Status {
	s := Status{Dir: l.Dir, BaseAddress: l.BaseAddress.String()}
	for _, c := range l.Clusters() {
		for _, n := range c.Nodes {
			p := Process{Name: n.Name, Address: net.JoinHostPort(n.Address, strconv.Itoa(n.Port)), Version: n.Version, Log: n.LogPath()}
			if p.fromPidFile(n.dir) && accepts(ctx, p.Address) {
				p.State = Ready
			}
			s.Processes = append(s.Processes, p)
		}
	}
	for _, a := range l.Appliances {
		s.Processes = append(s.Processes, a.look(ctx)...)
	}
	return s
}

// fromPidFile fills in what the pid file in dir tells. It reports whether the
// process runs and is not paused; whether it is ready is then to be asked.
func (p *Process) fromPidFile(dir string) bool {
	id := readIdentity(dir)
	state := id.state()
	if state == processGone {
		p.State = Ended
		return false
	}
	p.PID, p.MemoryBytes, p.State = id.PID, id.memory(), Starting
	if state == processPaused {
		p.State = Paused
	}
	return state == processRunning
}

func accepts(ctx context.Context, at string) bool {
	c, err := (&net.Dialer{Timeout: 300 * time.Millisecond}).DialContext(ctx, "tcp", at)
	if err != nil {
		return false
	}
	_ = c.Close()
	return true
}
