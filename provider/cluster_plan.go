package provider

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/zdmproject/terraform-provider-zdm/proxy/config"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// ModifyPlan works out the computed attributes, checks the configuration as a
// whole once all of it is known, and says which instances will be touched.
func (r *clusterResource) ModifyPlan(ctx context.Context, req resource.ModifyPlanRequest, resp *resource.ModifyPlanResponse) {
	if req.Plan.Raw.IsNull() {
		return // Delete tells what matters
	}
	var plan clusterModel
	var state *clusterModel
	resp.Diagnostics.Append(req.Plan.Get(ctx, &plan)...)
	var mem remembered
	if !req.State.Raw.IsNull() {
		state = new(clusterModel)
		resp.Diagnostics.Append(req.State.Get(ctx, state)...)
		mem = recall(ctx, req.Private, &resp.Diagnostics)
	}
	if resp.Diagnostics.HasError() {
		return
	}
	plan.planComputed(state)
	var touched []string
	if known := plan.known(ctx); !known {
		plan.Generations = types.MapUnknown(types.Int64Type)
	} else {
		if plan.check(&resp.Diagnostics); resp.Diagnostics.HasError() {
			return
		}
		touched = plan.planGenerations(state, mem)
	}
	if state != nil {
		plan.announce(state, mem, touched, &resp.Diagnostics)
	}
	resp.Diagnostics.Append(resp.Plan.Set(ctx, plan)...)
}

// known reports whether the documents can be rendered.
func (m *clusterModel) known(ctx context.Context) bool {
	for _, v := range []attr.Value{m.Instances, m.Origin, m.Target, m.ClientCredentials, m.Settings} {
		tf, err := v.ToTerraformValue(ctx)
		if err != nil || !tf.IsFullyKnown() {
			return false
		}
	}
	return true
}

func (m *clusterModel) planComputed(state *clusterModel) {
	if m.Instances.IsUnknown() {
		m.AdminEndpoints = types.MapUnknown(types.StringType)
		m.TopologyIndexes = types.MapUnknown(types.Int64Type)
		return
	}
	endpoints := map[string]attr.Value{}
	for _, name := range m.names() {
		endpoints[name] = types.StringUnknown()
		if v, ok := m.instance(name).Attributes()["admin_endpoint"].(types.String); ok {
			endpoints[name] = v
		}
	}
	m.AdminEndpoints = types.MapValueMust(types.StringType, endpoints)
	var old map[string]int64
	if state != nil {
		old = numbersOf(state.TopologyIndexes)
	}
	m.TopologyIndexes = numberMap(topologyIndexes(old, m.names()))
}

// check finds what is wrong with the configuration as a whole, as an agent
// would, and puts it to the attributes.
func (m *clusterModel) check(diags *diag.Diagnostics) {
	told := map[string]bool{}
	documents := m.documents()
	for _, name := range m.names() {
		var bad *config.Error
		if !errors.As(config.CheckSettings(documents[name]), &bad) {
			continue
		}
		for _, problem := range bad.Problems {
			key, text, _ := strings.Cut(problem, ":")
			at := attributePath(key, name)
			if told[at.String()+text] {
				continue
			}
			told[at.String()+text] = true
			diags.AddAttributeError(at, "Invalid setting", key+": "+strings.TrimSpace(text))
		}
	}
}

// planGenerations leaves the generation of an instance known that is not going
// to change, and returns the others.
func (m *clusterModel) planGenerations(state *clusterModel, mem remembered) (touched []string) {
	values := map[string]attr.Value{}
	var before map[string]document
	old := map[string]int64{}
	if state != nil {
		before, old = state.documents(), numbersOf(state.Generations)
	}
	secrets := state == nil || m.secretsChange(state)
	documents := m.documents()
	for _, name := range m.names() {
		generation, known := old[name]
		moved := state != nil && textOf(m.instance(name).Attributes()["admin_endpoint"]) != textOf(state.instance(name).Attributes()["admin_endpoint"])
		if known && !secrets && !moved && len(mem.Drift[name]) == 0 && len(documents[name].differences(before[name])) == 0 {
			values[name] = types.Int64Value(generation)
			continue
		}
		values[name] = types.Int64Unknown()
		touched = append(touched, name)
	}
	m.Generations = types.MapValueMust(types.Int64Type, values)
	return touched
}

func (m *clusterModel) secretsChange(state *clusterModel) bool {
	for _, side := range phase.Sides {
		was := state.side(side).Attributes()["password_wo_version"]
		if now := m.side(side).Attributes()["password_wo_version"]; was == nil || !now.Equal(was) {
			return true
		}
	}
	return false
}

// announce says what an update will do to the instances.
func (m *clusterModel) announce(state *clusterModel, mem remembered, touched []string, diags *diag.Diagnostics) {
	for _, name := range slices.Sorted(maps.Keys(mem.Changed)) {
		if len(mem.Changed[name]) > 0 && slices.Contains(touched, name) {
			diags.AddAttributeWarning(path.Root("instances").AtMapKey(name), "Instance "+name+" differs from the state",
				"Not as the state had it: "+strings.Join(mem.Changed[name], ", ")+". The apply sets it right.")
		}
	}
	var parts []string
	if len(touched) > 0 {
		parts = append(parts, "a new configuration for "+strings.Join(touched, ", "))
	}
	if !m.RestartTriggers.Equal(state.RestartTriggers) {
		parts = append(parts, "a restart of "+strings.Join(m.names(), ", "))
	}
	if len(parts) > 0 {
		diags.AddWarning("Rolling change", fmt.Sprintf("The apply brings %s: one instance at a time, each has to be ready before the next. Applications stay connected to the others.",
			strings.Join(parts, ", and ")))
	}
}
