package provider

import (
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/terraform-plugin-framework-validators/int64validator"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/appliance/gate"
	"github.com/zdmproject/terraform-provider-zdm/appliance/rollout"
)

func gatesAttribute() schema.Attribute {
	number := func(most int64, doc string) schema.Attribute {
		return schema.Int64Attribute{Optional: true, MarkdownDescription: fmt.Sprintf("%s 1 to %d.", doc, most), Validators: []validator.Int64{int64validator.Between(1, most)}}
	}
	return schema.SingleNestedAttribute{
		Optional: true,
		MarkdownDescription: "What must be shown before a step forward is begun. What is not given is not asked. Always asked, back too: every instance runs the configuration that it wants, and is ready unless it is drained. " +
			"A step that was begun is finished without asking again. `force_reason` overrides all of them.",
		Attributes: map[string]schema.Attribute{
			string(gate.SchemaSettled): schema.BoolAttribute{Optional: true,
				MarkdownDescription: "All proxies see the same schema version of Origin, and all of Target: no schema change is under way. It does not compare the clusters with each other. Into `dual_write`, `dual_read` and `cut_over`."},
			string(gate.WritesClean):  number(10080, "For so long writes went to both clusters and none failed because of one of them; or, if the mark `writes-clean-since` is later, since that. Out of `dual_write` and later phases."),
			string(gate.ReadsClean):   number(10080, "For so long reads were copied to Target, at least one, and none of the copies failed. Into `cut_over`."),
			string(gate.ClockSkew):    number(60000, "How far the clocks of the clusters may be from that of each proxy's machine, the uncertainty of the measurement included. Into `dual_write`, `dual_read` and `cut_over`."),
			string(gate.BackfillDone): schema.BoolAttribute{Optional: true, MarkdownDescription: "Every instance has the mark `backfill-done`. Into `cut_over` and `target_only`."},
		},
	}
}

func (m *phaseModel) rules() gate.Rules {
	given := m.Gates.Attributes()
	yes := func(name gate.Name) bool { b, _ := given[string(name)].(types.Bool); return b.ValueBool() }
	times := func(name gate.Name, unit time.Duration) time.Duration {
		n, _ := given[string(name)].(types.Int64)
		return time.Duration(n.ValueInt64()) * unit
	}
	return gate.Rules{SchemaSettled: yes(gate.SchemaSettled), BackfillDone: yes(gate.BackfillDone),
		WritesClean: times(gate.WritesClean, time.Minute), ReadsClean: times(gate.ReadsClean, time.Minute), ClockSkew: times(gate.ClockSkew, time.Millisecond)}
}

// checkGates tells which gates are closed: as a warning in a plan, and where
// there is a reason to go on all the same. Who does not answer an apply is told
// elsewhere.
func (m *phaseModel) checkGates(views []rollout.View, planning bool, diags *diag.Diagnostics) {
	at := path.Root("gates")
	for _, v := range views {
		if early := v.Status.State == adminapi.Locked && planning; v.Err == nil && !early {
			continue
		}
		if planning {
			diags.AddAttributeWarning(at, "Gates cannot be asked yet", "Instance "+v.Name+" does not answer or has no configuration yet. The apply asks it, before any instance takes the step.")
		}
		return
	}
	var lines []string
	for _, refusal := range gate.Check(m.rules(), m.want(), views, time.Now()) {
		lines = append(lines, refusal.String())
	}
	text := strings.Join(lines, "\n")
	switch {
	case len(lines) == 0:
	case !m.ForceReason.IsNull():
		diags.AddAttributeWarning(at, "Gates are overridden", text+"\n\nforce_reason overrides them. Take it out after the step.")
	case planning:
		diags.AddAttributeWarning(at, "The step would be refused now", text)
	default:
		diags.AddAttributeError(at, "The step is refused", text+"\n\nNothing was changed. Or give force_reason to take the step all the same.")
	}
}
