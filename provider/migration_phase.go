package provider

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/terraform-plugin-framework-validators/mapvalidator"
	"github.com/hashicorp/terraform-plugin-framework-validators/stringvalidator"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/zdmproject/terraform-provider-zdm/appliance/rollout"
	"github.com/zdmproject/terraform-provider-zdm/provider/explain"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

var (
	_ resource.ResourceWithConfigure   = (*phaseResource)(nil)
	_ resource.ResourceWithModifyPlan  = (*phaseResource)(nil)
	_ resource.ResourceWithImportState = (*phaseResource)(nil)
)

type phaseResource struct{ admin *admin }

type phaseModel struct {
	ClusterID      types.String `tfsdk:"cluster_id"`
	Instances      types.Map    `tfsdk:"instances"`
	Phase          types.String `tfsdk:"phase"`
	Gates          types.Object `tfsdk:"gates"`
	ForceReason    types.String `tfsdk:"force_reason"`
	InstancePhases types.Map    `tfsdk:"instance_phases"`
	Since          types.String `tfsdk:"since"`
	Previous       types.String `tfsdk:"previous"`
}

func (r *phaseResource) Metadata(_ context.Context, _ resource.MetadataRequest, resp *resource.MetadataResponse) {
	resp.TypeName = TypeName + "_migration_phase"
}

func (r *phaseResource) Configure(_ context.Context, req resource.ConfigureRequest, _ *resource.ConfigureResponse) {
	r.admin, _ = req.ProviderData.(*admin)
}

func (r *phaseResource) Schema(_ context.Context, _ resource.SchemaRequest, resp *resource.SchemaResponse) {
	resp.Schema = schema.Schema{
		MarkdownDescription: strings.Join([]string{
			"The phase that all proxies of a cluster are in. One changes it step by step, either way; every step takes effect in the running proxies, without a restart.",
			phaseTable(),
			"A step is prepared on every instance before the first takes it: each proves what the phase needs of the clusters. If one refuses or does not answer, nothing is changed. " +
				"If one fails in the middle, the instances are in two adjacent phases, which may serve side by side; the plan shows it, and the next apply finishes the step.",
			"An instance without a phase, as one that was added, joins in the phase of the others. Destroying this resource touches no proxy.",
		}, "\n\n"),
		Attributes: map[string]schema.Attribute{
			"cluster_id": schema.StringAttribute{Required: true, MarkdownDescription: "`id` of the `zdm_proxy_cluster`."},
			"instances": schema.MapAttribute{ElementType: types.StringType, Required: true,
				MarkdownDescription: "`admin_endpoints` of the `zdm_proxy_cluster`: always all of its instances.",
				Validators:          []validator.Map{mapvalidator.SizeAtLeast(1), mapvalidator.ValueStringsAre(endpointValid{})}},
			"phase": schema.StringAttribute{Required: true,
				MarkdownDescription: "One of `" + strings.Join(phase.Names(), "`, `") + "`. A cluster begins with `origin_only` or `dual_write`.",
				Validators:          []validator.String{stringvalidator.OneOf(phase.Names()...)}},
			"gates": gatesAttribute(),
			"force_reason": schema.StringAttribute{Optional: true, Validators: []validator.String{stringvalidator.LengthAtLeast(1)},
				MarkdownDescription: "Why a move that loses something is made all the same: out of `target_only`, and from `dual_write` to `origin_only`; or why instances that have lost their phases begin with a later one; or why a step is taken though `gates` are closed. An instance that does not answer, refuses to prepare, or would skip a phase stops a step all the same. The agents keep it in their events. Take it out again afterwards."},
			"instance_phases": schema.MapAttribute{ElementType: types.StringType, Computed: true,
				MarkdownDescription: "Phase of each instance; they differ only while a step is not finished. Empty for one that has none."},
			"since":    schema.StringAttribute{Computed: true, MarkdownDescription: "When the last instance entered the phase (RFC 3339)."},
			"previous": schema.StringAttribute{Computed: true, MarkdownDescription: "The phase before it; empty for the first."},
		},
	}
}

// phaseTable is the table of phases for the documentation.
func phaseTable() string {
	var b strings.Builder
	b.WriteString("| Phase | Reads answered by | Writes go to | Needs | |\n|---|---|---|---|---|\n")
	for _, p := range phase.All {
		rule := p.Rule()
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", p, rule.Primary, rule.Writes, rule.Needed, rule.Summary)
	}
	return b.String()
}

func (m *phaseModel) want() phase.Phase {
	p, _ := phase.Parse(m.Phase.ValueString())
	return p
}

// at reads the phases of the instances from a state.
func (m *phaseModel) at() map[string]phase.Phase {
	out := map[string]phase.Phase{}
	for name, v := range m.InstancePhases.Elements() {
		p, _ := phase.Parse(textOf(v))
		out[name] = p
	}
	return out
}

func phasesOf(views []rollout.View) map[string]phase.Phase {
	out := map[string]phase.Phase{}
	for _, v := range views {
		if v.Err == nil {
			out[v.Name] = v.Status.Phase.Phase
		}
	}
	return out
}

func phaseText(p phase.Phase) string {
	if p == phase.None {
		return ""
	}
	return p.String()
}

func phaseMap(at map[string]phase.Phase) types.Map {
	texts := map[string]string{}
	for name, p := range at {
		texts[name] = phaseText(p)
	}
	return textMap(texts)
}

func (r *phaseResource) fleet(m *phaseModel, diags *diag.Diagnostics) fleet {
	endpoints, _ := endpointsOf(m.Instances)
	f, d := r.admin.fleet(endpoints, m.ClusterID.ValueString(), 0)
	diags.Append(d...)
	return f
}

func (r *phaseResource) Create(ctx context.Context, req resource.CreateRequest, resp *resource.CreateResponse) {
	var plan phaseModel
	if resp.Diagnostics.Append(req.Plan.Get(ctx, &plan)...); resp.Diagnostics.HasError() {
		return
	}
	if r.apply(ctx, &plan, &resp.Diagnostics) {
		resp.Diagnostics.Append(resp.State.Set(ctx, plan)...)
	}
}

func (r *phaseResource) Update(ctx context.Context, req resource.UpdateRequest, resp *resource.UpdateResponse) {
	var plan phaseModel
	if resp.Diagnostics.Append(req.Plan.Get(ctx, &plan)...); resp.Diagnostics.HasError() {
		return
	}
	if r.apply(ctx, &plan, &resp.Diagnostics) {
		resp.Diagnostics.Append(resp.State.Set(ctx, plan)...)
	}
}

// apply takes all instances to the planned phase and completes the plan.
func (r *phaseResource) apply(ctx context.Context, plan *phaseModel, diags *diag.Diagnostics) bool {
	if r.admin.unready(diags) {
		return false
	}
	f := r.fleet(plan, diags)
	defer f.close()
	if diags.HasError() {
		return false
	}
	if plan.checkGates(rollout.Look(ctx, f), false, diags); diags.HasError() {
		return false
	}
	views, err := rollout.ChangePhase(ctx, f, plan.want(), plan.ForceReason.ValueString(), rollout.Timing{Poll: poll, Say: say(ctx)})
	if err != nil {
		at := path.Root("phase")
		var move *phase.MoveError
		if _, illegal := rollout.Journey(plan.want(), !plan.ForceReason.IsNull(), phasesOf(views)); errors.As(illegal, &move) {
			diags.AddAttributeError(at, "Illegal move", move.Error())
			return false
		}
		explainRun(diags, at, f, err)
		return false
	}
	plan.fill(views)
	return true
}

// fill takes the computed attributes from the instances.
func (m *phaseModel) fill(views []rollout.View) {
	m.InstancePhases = phaseMap(phasesOf(views))
	var last time.Time
	previous := phase.None
	for _, v := range views {
		if p := v.Status.Phase; v.Err == nil && !p.Since.Before(last) {
			last = p.Since
			previous = max(previous, p.Previous)
		}
	}
	m.Since = types.StringValue(last.UTC().Format(time.RFC3339))
	m.Previous = types.StringValue(phaseText(previous))
}

// Read notices what was changed behind its back. Where the instances differ,
// the state keeps a phase that one of them is in, and the plan has a change,
// since instance_phases is not what it should be.
func (r *phaseResource) Read(ctx context.Context, req resource.ReadRequest, resp *resource.ReadResponse) {
	var state phaseModel
	if resp.Diagnostics.Append(req.State.Get(ctx, &state)...); resp.Diagnostics.HasError() {
		return
	}
	if r.admin == nil || r.admin.unknown != "" {
		resp.Diagnostics.AddWarning("State is not refreshed", "A value of the provider block is not known yet, so the instances cannot be asked.")
		return
	}
	f := r.fleet(&state, &resp.Diagnostics)
	defer f.close()
	if resp.Diagnostics.HasError() {
		return
	}
	views := rollout.Look(ctx, f)
	imported := state.Phase.IsNull()
	at := state.at()
	for _, v := range views {
		if v.Err == nil {
			at[v.Name] = v.Status.Phase.Phase
			if imported {
				state.ClusterID = types.StringValue(v.Status.ClusterID)
			}
			continue
		}
		summary, detail := explain.Instance(v.Name, f[v.Name].endpoint, v.Err)
		if imported {
			resp.Diagnostics.AddError(summary, detail)
			continue
		}
		resp.Diagnostics.AddWarning(summary, detail+"\n\nIts state is kept as it was.")
	}
	if resp.Diagnostics.HasError() {
		return
	}
	if !maps.Equal(at, state.at()) || imported {
		state.fill(views)
	}
	state.InstancePhases = phaseMap(at)
	if there := slices.Sorted(maps.Values(at)); len(there) > 0 && !slices.Contains(there, state.want()) {
		state.Phase = types.StringValue(phaseText(there[0]))
		if there[0] == phase.None {
			state.Phase = types.StringValue(phaseText(there[len(there)-1]))
		}
	}
	resp.Diagnostics.Append(resp.State.Set(ctx, state)...)
}

// ModifyPlan refuses what no apply could do, and says what the apply will do.
func (r *phaseResource) ModifyPlan(ctx context.Context, req resource.ModifyPlanRequest, resp *resource.ModifyPlanResponse) {
	if req.Plan.Raw.IsNull() {
		return
	}
	var plan phaseModel
	if resp.Diagnostics.Append(req.Plan.Get(ctx, &plan)...); resp.Diagnostics.HasError() {
		return
	}
	endpoints, known := endpointsOf(plan.Instances)
	if !known || plan.Phase.IsUnknown() || plan.ForceReason.IsUnknown() {
		return
	}
	at := map[string]phase.Phase{}
	var state phaseModel
	if !req.State.Raw.IsNull() {
		if resp.Diagnostics.Append(req.State.Get(ctx, &state)...); resp.Diagnostics.HasError() {
			return
		}
		at = state.at()
	}
	at = r.peek(ctx, &plan, at, endpoints)
	steps, err := rollout.Journey(plan.want(), !plan.ForceReason.IsNull(), at)
	if err != nil {
		resp.Diagnostics.AddAttributeError(path.Root("phase"), "Illegal move", err.Error())
		return
	}
	if len(steps) == 0 && !req.State.Raw.IsNull() && len(state.at()) == len(endpoints) {
		plan.InstancePhases, plan.Since, plan.Previous = state.InstancePhases, state.Since, state.Previous
	} else {
		to := map[string]phase.Phase{}
		for name := range endpoints {
			to[name] = plan.want()
		}
		plan.InstancePhases, plan.Since, plan.Previous = phaseMap(to), types.StringUnknown(), types.StringUnknown()
	}
	if len(steps) > 0 {
		resp.Diagnostics.AddAttributeWarning(path.Root("phase"), "Phase change", announceSteps(steps, plan.want()))
		if r.admin != nil && r.admin.unknown == "" && !plan.Gates.IsUnknown() {
			f, _ := r.admin.fleet(endpoints, plan.ClusterID.ValueString(), 0)
			defer f.close()
			soon, cancel := context.WithTimeout(ctx, 3*time.Second)
			defer cancel()
			plan.checkGates(rollout.Look(soon, f), true, &resp.Diagnostics)
		}
	}
	resp.Diagnostics.Append(resp.Plan.Set(ctx, plan)...)
}

// peek adds the phases of instances that the state does not know: those of a
// resource that is being created, and new ones. Who cannot be asked yet, since
// its machine or its configuration comes with the same apply, has none.
func (r *phaseResource) peek(ctx context.Context, plan *phaseModel, at map[string]phase.Phase, endpoints map[string]string) map[string]phase.Phase {
	out, ask := map[string]phase.Phase{}, map[string]string{}
	for name, endpoint := range endpoints {
		if p, known := at[name]; known {
			out[name] = p
			continue
		}
		out[name], ask[name] = phase.None, endpoint
	}
	if len(ask) == 0 || r.admin == nil || r.admin.unknown != "" {
		return out
	}
	f, _ := r.admin.fleet(ask, plan.ClusterID.ValueString(), 0)
	defer f.close()
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	maps.Copy(out, phasesOf(rollout.Look(ctx, f)))
	return out
}

// announceSteps says what steps mean: "dual_write to dual_read on a, b: ...".
func announceSteps(steps []rollout.Step, want phase.Phase) string {
	by := map[phase.Phase][]string{}
	for _, s := range steps {
		if s.To == want {
			by[s.From] = append(by[s.From], s.Instance)
		}
	}
	var lines []string
	for _, from := range slices.Sorted(maps.Keys(by)) {
		on := strings.Join(by[from], ", ")
		switch {
		case from == phase.None:
			lines = append(lines, fmt.Sprintf("%s on %s, which had no phase: %s.", want, on, want.Rule().Summary))
		case phase.CheckMove(from, want, false) != nil:
			lines = append(lines, fmt.Sprintf("%s to %s on %s: %s. This loses something: %s.", from, want, on, want.Rule().Summary, phase.CheckMove(from, want, false)))
		default:
			lines = append(lines, fmt.Sprintf("%s to %s on %s: %s.", from, want, on, want.Rule().Summary))
		}
	}
	return strings.Join(lines, "\n") + "\n\nEvery instance has to prepare the step before the first takes it."
}

// Delete touches no proxy: each serves on in the phase that it is in.
func (r *phaseResource) Delete(context.Context, resource.DeleteRequest, *resource.DeleteResponse) {}

// ImportState takes "name=endpoint,name=endpoint"; the rest is read.
func (r *phaseResource) ImportState(ctx context.Context, req resource.ImportStateRequest, resp *resource.ImportStateResponse) {
	endpoints, err := parseImport(req.ID)
	if err != nil {
		resp.Diagnostics.AddError("Invalid import id", err.Error())
		return
	}
	resp.Diagnostics.Append(resp.State.SetAttribute(ctx, path.Root("instances"), textMap(endpoints))...)
}
