package lab

import (
	"context"
	"fmt"
	"path/filepath"
)

// proxyPrefix begins the folder names of appliances.
const proxyPrefix = "proxy-"

// Appliance is one agent process with its proxy, on an address of its own.
type Appliance struct {
	Name          string
	ListenAddress string

	lab *Lab
	dir string
}

func newAppliance(l *Lab, i int) *Appliance {
	name := fmt.Sprintf("%s%d", proxyPrefix, i+1)
	return &Appliance{Name: name, ListenAddress: address(l.BaseAddress, groupProxy, i+1), lab: l, dir: filepath.Join(l.Dir, name)}
}

// LogPath is where the agent's log is.
func (a *Appliance) LogPath() string { return filepath.Join(a.dir, "log") }

func (l *Lab) startAppliances(ctx context.Context, o Options, u *starting) error {
	return nil
}

func (a *Appliance) status(ctx context.Context) []Process { return nil }
