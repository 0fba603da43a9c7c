package provider

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/plancheck"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/appliance/rollout"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// in returns the configuration in a phase.
func (d *deployment) in(p phase.Phase, force string) string {
	return d.with(func(d *deployment) { d.phase, d.force = p.String(), force })
}

var phaseChanges = resource.ConfigPlanChecks{PreApply: []plancheck.PlanCheck{plancheck.ExpectResourceAction(phaseName, plancheck.ResourceActionUpdate)}}

func TestAccPhaseWalksThroughTheMigrationAndBack(t *testing.T) {
	d := deploy(t, "a", "b")
	a, b := d.agents[0], d.agents[1]
	step := func(p phase.Phase, force, previous string) resource.TestStep {
		want := fmt.Sprintf("prepare %s, commit %s", p, p)
		return after(resource.TestStep{
			Config: d.in(p, force),
			Check: resource.ComposeTestCheckFunc(attribute(phaseName, "phase", p.String()), attribute(phaseName, "instance_phases.b", p.String()),
				attribute(phaseName, "previous", previous)),
		}, told(t, fmt.Sprintf("a: %s; b: %s", want, want), a, b))
	}
	acceptance(t,
		after(resource.TestStep{Config: d.String()}, told(t, "a: put; b: put", a, b)),
		step(phase.DualWrite, "", ""),
		step(phase.DualRead, "", "dual_write"),
		step(phase.CutOver, "", "dual_read"),
		step(phase.DualRead, "", "cut_over"),
		step(phase.CutOver, "", "dual_read"),
		step(phase.TargetOnly, "", "cut_over"),
		resource.TestStep{Config: d.in(phase.CutOver, ""), ExpectError: expect("would answer with stale rows")},
		step(phase.CutOver, "rehearsal, nobody writes", "target_only"),
		// To take the reason out again changes nothing on the instances.
		after(resource.TestStep{Config: d.in(phase.CutOver, "")}, told(t, "a: ; b: ", a, b)),
	)
}

func TestAccIllegalMoveIsRefusedByThePlan(t *testing.T) {
	d := deploy(t, "a", "b")
	acceptance(t,
		resource.TestStep{Config: d.with(func(d *deployment) { d.phase = "dual" }), ExpectError: expect(`value must be one of`)},
		resource.TestStep{Config: d.in(phase.CutOver, ""), ExpectError: expect("begins with origin_only or dual_write")},
		resource.TestStep{Config: d.in(phase.DualWrite, "")},
		resource.TestStep{Config: d.in(phase.CutOver, ""), PlanOnly: true, ExpectError: expect("dual_write to cut_over skips a phase; go to dual_read first")},
		resource.TestStep{Config: d.in(phase.OriginOnly, ""), PlanOnly: true, ExpectError: expect("the backfill must be done again")},
	)
}

func TestAccRefusalChangesNothing(t *testing.T) {
	d := deploy(t, "a", "b")
	a, b := d.agents[0], d.agents[1]
	acceptance(t,
		after(resource.TestStep{Config: d.in(phase.DualWrite, "")}, told(t, "a: put, prepare dual_write, commit dual_write; b: put, prepare dual_write, commit dual_write", a, b)),
		resource.TestStep{PreConfig: func() { b.set(func(b *fakeAgent) { b.refuse = "target: login as app failed" }) },
			Config: d.in(phase.DualRead, ""), ExpectError: expect("target: login as app failed")},
		after(resource.TestStep{PreConfig: func() {
			told(t, "a: prepare dual_read, abort; b: ", a, b)()
			b.set(func(b *fakeAgent) { b.refuse = "" })
		}, Config: d.in(phase.DualRead, "")}, told(t, "a: prepare dual_read, commit dual_read; b: prepare dual_read, commit dual_read", a, b)),
		resource.TestStep{PreConfig: func() { b.set(func(b *fakeAgent) { b.down = true }) }, Config: d.in(phase.CutOver, ""), ExpectError: expect("Nothing was changed")},
		resource.TestStep{PreConfig: func() { b.set(func(b *fakeAgent) { b.down = false }) }, Config: d.in(phase.DualRead, "")},
	)
}

func TestAccAClosedGateRefusesTheStepBeforeItIsPrepared(t *testing.T) {
	d := deploy(t, "a", "b")
	d.gates = "backfill_done = true, writes_clean_minutes = 60, schema_settled = false"
	a, b := d.agents[0], d.agents[1]
	long := time.Now().Add(-24 * time.Hour)
	for _, x := range d.agents {
		x.set(func(x *fakeAgent) { x.recent.WatchedSince = long })
	}
	aged := func(marks ...adminapi.Mark) func() {
		return func() {
			a.took()
			b.took()
			for _, x := range d.agents {
				x.set(func(x *fakeAgent) { x.phase.Since, x.marks = long, marks })
			}
		}
	}
	done := adminapi.Mark{Name: adminapi.MarkBackfillDone, Author: "ops", Time: long}
	cutOver := told(t, "a: prepare cut_over, commit cut_over; b: prepare cut_over, commit cut_over", a, b)
	acceptance(t,
		resource.TestStep{Config: d.in(phase.DualWrite, "")},
		resource.TestStep{Config: d.in(phase.DualRead, ""), ExpectError: expect("writes_clean_minutes on a: it has been in dual_write since")},
		resource.TestStep{PreConfig: aged(), Config: d.in(phase.DualRead, "")},
		resource.TestStep{PreConfig: aged(), Config: d.in(phase.CutOver, ""), ExpectError: expect("backfill_done on b: has no mark backfill-done")},
		resource.TestStep{PreConfig: func() {
			told(t, "a: ; b: ", a, b)()
			aged(done)()
			b.set(func(b *fakeAgent) { b.recent.Target.LastFailedWrite = time.Now().Add(-time.Minute) })
		}, Config: d.in(phase.CutOver, ""), ExpectError: expect("writes_clean_minutes on b: a write failed on target")},
		after(resource.TestStep{PreConfig: func() { told(t, "a: ; b: ", a, b)() }, Config: d.in(phase.CutOver, "the row was written again")}, cutOver),
		// The way back asks for no evidence, but for instances that are ready.
		resource.TestStep{PreConfig: func() { aged()(); b.set(func(b *fakeAgent) { b.notReady = "target: down" }) },
			Config: d.in(phase.DualRead, ""), ExpectError: expect("instances on b: is not ready: target: down")},
		after(resource.TestStep{PreConfig: func() { aged()(); b.set(func(b *fakeAgent) { b.notReady = "" }) }, Config: d.in(phase.DualRead, "")},
			told(t, "a: prepare dual_read, commit dual_read; b: prepare dual_read, commit dual_read", a, b)),
		after(resource.TestStep{PreConfig: func() {
			aged(done, adminapi.Mark{Name: adminapi.MarkWritesCleanSince, Author: "ops", Time: time.Now()})()
		}, Config: d.in(phase.CutOver, "")}, cutOver),
	)
}

func TestAPlanTellsWhichGatesAreClosed(t *testing.T) {
	t.Parallel()
	down := rollout.View{Name: "a", Err: errors.New("connection refused")}
	locked := rollout.View{Name: "a", Status: adminapi.Status{State: adminapi.Locked}}
	unready := rollout.View{Name: "a", Status: adminapi.Status{State: adminapi.Serving, NotReady: []string{"target: down"}, Phase: adminapi.Phase{Phase: phase.DualWrite}}}
	for _, test := range []struct {
		name     string
		view     rollout.View
		force    types.String
		planning bool
		want     string
		severity diag.Severity
	}{
		{"down, plan", down, types.StringNull(), true, "Gates cannot be asked yet", diag.SeverityWarning},
		{"down, apply", down, types.StringNull(), false, "", 0},
		{"locked, plan", locked, types.StringNull(), true, "Gates cannot be asked yet", diag.SeverityWarning},
		{"locked, apply", locked, types.StringNull(), false, "The step is refused", diag.SeverityError},
		{"plan", unready, types.StringNull(), true, "The step would be refused now", diag.SeverityWarning},
		{"apply", unready, types.StringNull(), false, "The step is refused", diag.SeverityError},
		{"forced", unready, types.StringValue("rehearsal"), false, "Gates are overridden", diag.SeverityWarning},
	} {
		m := phaseModel{Phase: types.StringValue("dual_read"), ForceReason: test.force}
		var diags diag.Diagnostics
		m.checkGates([]rollout.View{test.view}, test.planning, &diags)
		if test.want == "" && len(diags) == 0 {
			continue
		}
		if len(diags) != 1 || diags[0].Summary() != test.want || diags[0].Severity() != test.severity {
			t.Errorf("%s: diagnostics are %v, want %q", test.name, diags, test.want)
		}
	}
}

func TestAccFailureBetweenCommitsIsFinishedForward(t *testing.T) {
	d := deploy(t, "a", "b")
	a, b := d.agents[0], d.agents[1]
	acceptance(t,
		resource.TestStep{Config: d.in(phase.DualWrite, "")},
		resource.TestStep{PreConfig: func() { b.set(func(b *fakeAgent) { b.dropCommit = true }) },
			Config: d.in(phase.DualRead, ""), ExpectError: expect("Now b in dual_write; a in dual_read; apply again to finish the step")},
		// Another phase than the two is not possible now, and the plan shows both ways out.
		resource.TestStep{PreConfig: func() {
			a.took()
			b.set(func(b *fakeAgent) { b.dropCommit, b.calls, b.phase.Prepared = false, nil, nil })
		}, Config: d.in(phase.CutOver, ""), ExpectError: expect("set phase to dual_write or dual_read first")},
		after(resource.TestStep{Config: d.in(phase.DualRead, ""), ConfigPlanChecks: phaseChanges, Check: attribute(phaseName, "instance_phases.b", "dual_read")},
			told(t, "a: ; b: prepare dual_read, commit dual_read", a, b)),
	)
}

func TestAccFailureBetweenCommitsCanBeTakenBack(t *testing.T) {
	d := deploy(t, "a", "b")
	a, b := d.agents[0], d.agents[1]
	acceptance(t,
		resource.TestStep{Config: d.in(phase.DualWrite, "")},
		resource.TestStep{PreConfig: func() { b.set(func(b *fakeAgent) { b.dropCommit = true }) }, Config: d.in(phase.DualRead, ""), ExpectError: expect("finish the step")},
		after(resource.TestStep{PreConfig: func() {
			a.took()
			b.set(func(b *fakeAgent) { b.dropCommit, b.calls, b.phase.Prepared = false, nil, nil })
		}, Config: d.in(phase.DualWrite, ""), ConfigPlanChecks: phaseChanges}, told(t, "a: prepare dual_write, commit dual_write; b: ", a, b)),
	)
}

func TestAccPhaseSeesWhatWasChangedBehindItsBack(t *testing.T) {
	d := deploy(t, "a", "b")
	a, b := d.agents[0], d.agents[1]
	acceptance(t,
		resource.TestStep{Config: d.in(phase.DualWrite, "")},
		after(resource.TestStep{PreConfig: func() {
			a.set(func(a *fakeAgent) { a.move(phase.DualRead); a.calls = nil })
			b.set(func(b *fakeAgent) { b.move(phase.DualRead); b.calls = nil })
		}, Config: d.in(phase.DualWrite, ""), ConfigPlanChecks: phaseChanges}, told(t, "a: prepare dual_write, commit dual_write; b: prepare dual_write, commit dual_write", a, b)),
		after(resource.TestStep{PreConfig: func() { b.set(func(b *fakeAgent) { b.move(phase.DualRead); b.calls = nil }) },
			Config: d.in(phase.DualWrite, ""), ConfigPlanChecks: phaseChanges}, told(t, "a: ; b: prepare dual_write, commit dual_write", a, b)),
	)
}

func TestAccNewInstanceJoinsItsPeers(t *testing.T) {
	d := deploy(t, "a", "b", "c")
	c, all := d.agents[2], d.agents
	two := func(p phase.Phase) string {
		return d.with(func(d *deployment) { d.agents, d.phase = all[:2], p.String() })
	}
	acceptance(t,
		resource.TestStep{Config: two(phase.DualWrite)},
		resource.TestStep{Config: two(phase.DualRead)},
		resource.TestStep{Config: two(phase.CutOver)},
		after(resource.TestStep{Config: d.in(phase.CutOver, ""), Check: attribute(phaseName, "instance_phases.c", "cut_over")},
			told(t, "c: put, prepare cut_over, commit cut_over", c)),
	)
}

func TestAccPhaseImportAndDestroy(t *testing.T) {
	d := deploy(t, "a", "b")
	a := d.agents[0]
	acceptance(t,
		resource.TestStep{Config: d.in(phase.DualWrite, "")},
		resource.TestStep{ResourceName: phaseName, ImportState: true, ImportStateVerify: true, ImportStateVerifyIdentifierAttribute: "cluster_id",
			ImportStateId: fmt.Sprintf("a=%s,b=%s", a.server.URL, d.agents[1].server.URL)},
		after(resource.TestStep{PreConfig: func() { a.took() }, Config: d.String()}, func() {
			told(t, "a: ", a)()
			if a.phase.Phase != phase.DualWrite {
				t.Errorf("after the destroy a is in %s, want it untouched", a.phase.Phase)
			}
		}),
	)
}

func TestAccStatus(t *testing.T) {
	d := deploy(t, "a", "b")
	const name = "data.zdm_proxy_status.test"
	source := "data \"zdm_proxy_status\" \"test\" {\n cluster_id = zdm_proxy_cluster.test.id\n instances = zdm_proxy_cluster.test.admin_endpoints\n}\n"
	acceptance(t,
		resource.TestStep{Config: d.in(phase.DualWrite, "")},
		resource.TestStep{Config: d.in(phase.DualWrite, "") + source, Check: resource.ComposeAggregateTestCheckFunc(
			attribute(name, "ready", "true"), attribute(name, "phase", "dual_write"), attribute(name, "statuses.a.state", "serving"),
			attribute(name, "statuses.b.origin.cluster_name", "old"), attribute(name, "statuses.b.requests", "42"))},
		resource.TestStep{PreConfig: func() { d.agents[1].set(func(b *fakeAgent) { b.down = true }) }, Config: d.in(phase.DualWrite, "") + source,
			Check: resource.ComposeAggregateTestCheckFunc(attribute(name, "ready", "false"), attribute(name, "statuses.a.ready", "true"),
				resource.TestMatchResourceAttr(name, "statuses.b.error", expect("no answer from")))},
		resource.TestStep{PreConfig: func() { d.agents[1].set(func(b *fakeAgent) { b.down = false }) }, Config: d.in(phase.DualWrite, "")},
	)
}
