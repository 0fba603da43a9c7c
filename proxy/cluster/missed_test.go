package cluster

import (
	"bytes"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestControlTellsOfKeyspacesThatMayHaveChangedWhileItWasDown(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		changed bool
		want    []string
	}{"the schema is another": {true, []string{"Ks", "systemic"}}, "the schema is the same": {false, nil}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var told []string
				control := serveControl(t, 1, func(cfg *ControlConfig, _ []*fakeNode) {
					cfg.OnSchemaMissed = func(keyspaces []string) { told = append(told, keyspaces...) }
				})
				if len(told) > 0 {
					t.Errorf("told of %q at the first connection, want nothing", told)
				}
				control.nodes[0].set(func(n *fakeNode) {
					if c.changed {
						local := *n.local
						local.Data = slices.Clone(local.Data)
						local.Data[0] = slices.Clone(local.Data[0])
						local.Data[0][6] = bytes.Repeat([]byte{7}, 16)
						n.local = &local
					}
					n.closeLocked()
				})
				time.Sleep(time.Minute)
				synctest.Wait()
				if !control.Status().Connected {
					t.Fatal("not connected again")
				}
				control.stop()
				if diff := cmp.Diff(c.want, told); diff != "" {
					t.Errorf("keyspaces told of (-want +got):\n%s", diff)
				}
			})
		})
	}
}
