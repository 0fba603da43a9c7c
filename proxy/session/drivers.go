package session

import (
	"cmp"
	"slices"
	"strings"
	"sync"

	"github.com/zdmproject/terraform-provider-zdm/proxy/control"
)

const (
	// maxDriverName bounds what a client says of its driver, and maxDrivers how many
	// are told apart: clients could say anything.
	maxDriverName = 64
	maxDrivers    = 100
)

// manyDrivers is what those are counted as that are one too many.
var manyDrivers = driver{name: "others"}

// driver is what a client says of its driver.
type driver struct{ name, version string }

// driverOf is the other way round of String: names have spaces, versions have
// none.
func driverOf(text string) driver {
	at := strings.LastIndexByte(text, ' ')
	if at < 0 {
		return driver{name: clipDriver(text)}
	}
	return driver{clipDriver(text[:at]), clipDriver(text[at+1:])}
}

func clipDriver(text string) string {
	return strings.ToValidUTF8(text[:min(len(text), maxDriverName)], "?")
}

func (d driver) String() string { return d.name + " " + d.version }

// Drivers counts clients by driver. The zero value is empty. It may be used from
// any goroutine.
type Drivers struct {
	mu     sync.Mutex
	counts map[driver]int
}

// enter counts a client in, and returns what it is counted as.
func (c *Drivers) enter(d driver) driver {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.counts == nil {
		c.counts = make(map[driver]int)
	}
	if c.counts[d] == 0 && len(c.counts) >= maxDrivers {
		d = manyDrivers
	}
	c.counts[d]++
	return d
}

func (c *Drivers) leave(d driver) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.counts[d]--; c.counts[d] == 0 {
		delete(c.counts, d)
	}
}

// Count returns the clients by driver, in order of names and versions.
func (c *Drivers) Count() []control.Driver {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]control.Driver, 0, len(c.counts))
	for d, n := range c.counts {
		out = append(out, control.Driver{Name: d.name, Version: d.version, Clients: n})
	}
	slices.SortFunc(out, func(a, b control.Driver) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Version, b.Version))
	})
	return out
}
