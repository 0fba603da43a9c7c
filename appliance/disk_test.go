package appliance_test

import (
	"strings"
	"testing"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

func TestFullDiskIsAnErrorAndNoLoss(t *testing.T) {
	t.Parallel()
	in := serving(t)
	token := in.prepare(phase.DualRead, 1)
	in.full.Store(true)
	conf := in.config(hostGood)
	conf.Settings["proxy_max_stream_ids"] = "500"
	ctx := t.Context()
	for name, call := range map[string]func() error{
		"commit": func() error { _, err := in.c.Commit(ctx, token); return err },
		"abort":  func() error { _, err := in.c.Abort(ctx, token); return err },
		"mark":   func() error { _, err := in.c.PutMark(ctx, "mine", adminapi.MarkRequest{Reason: "r"}, 0); return err },
		"drain":  func() error { _, err := in.c.Drain(ctx, adminapi.DrainRequest{}); return err },
	} {
		if p := wantProblem(t, call(), "internal", 500); !strings.Contains(p.Detail, "no space left on device") {
			t.Errorf("%s: %s", name, p.Detail)
		}
	}
	st := in.await("ready", ready)
	if st.Phase.Phase != phase.DualWrite || len(st.Marks) != 0 || st.Drain != nil {
		t.Errorf("what was not stored has happened: %+v", st)
	}
	if got, want := in.connect().ask(t), "1 dual_write 1"; got != want {
		t.Errorf("a client is told %q, want %q", got, want)
	}
	in.full.Store(false)
	if _, err := in.c.Commit(ctx, token); err != nil {
		t.Errorf("with room again: %v", err)
	}
	in.full.Store(true)
	_, err := in.c.PutConfig(ctx, conf, 1)
	wantProblem(t, err, "internal", 500)
	if st := in.await("ready", ready); st.Generation != 1 || st.Running != 1 {
		t.Errorf("generation %d wanted, %d running", st.Generation, st.Running)
	}
	in.full.Store(false)
	if got, err := in.c.PutConfig(ctx, conf, 1); err != nil || got.Running == 1 {
		t.Errorf("with room again: %+v, %v", got, err)
	}
}
