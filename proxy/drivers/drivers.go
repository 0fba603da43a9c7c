// Package drivers tells what clients say of their drivers apart, and counts them.
//
// Floor 2: it knows no clients. A Count may be used from any goroutine; it starts
// none.
package drivers

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

// others is what those are counted as that are one too many.
var others = Driver{name: "others"}

// Driver is what a client says of its driver.
type Driver struct{ name, version string }

// Parse is the other way round of String: names have spaces, versions have
// none.
func Parse(text string) Driver {
	at := strings.LastIndexByte(text, ' ')
	if at < 0 {
		return Driver{name: clip(text)}
	}
	return Driver{clip(text[:at]), clip(text[at+1:])}
}

func clip(text string) string {
	return strings.ToValidUTF8(text[:min(len(text), maxDriverName)], "?")
}

func (d Driver) String() string { return d.name + " " + d.version }

// Count counts clients by driver. The zero value is empty. It may be used from
// any goroutine.
type Count struct {
	mu     sync.Mutex
	counts map[Driver]int
}

// Enter counts a client in, and returns what it is counted as.
func (c *Count) Enter(d Driver) Driver {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.counts == nil {
		c.counts = make(map[Driver]int)
	}
	if c.counts[d] == 0 && len(c.counts) >= maxDrivers {
		d = others
	}
	c.counts[d]++
	return d
}

// Leave counts a client out that Enter has counted as d.
func (c *Count) Leave(d Driver) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.counts[d]--; c.counts[d] == 0 {
		delete(c.counts, d)
	}
}

// All returns the clients by driver, in order of names and versions.
func (c *Count) All() []control.Driver {
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
