package provider

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// Read puts into the state what the instances have, so that the plan shows what
// was changed behind its back. An instance that does not answer keeps its state.
func (r *clusterResource) Read(ctx context.Context, req resource.ReadRequest, resp *resource.ReadResponse) {
	var state clusterModel
	resp.Diagnostics.Append(req.State.Get(ctx, &state)...)
	mem := recall(ctx, req.Private, &resp.Diagnostics)
	if resp.Diagnostics.HasError() {
		return
	}
	if r.admin == nil || r.admin.unknown != "" {
		resp.Diagnostics.AddWarning("State is not refreshed", "A value of the provider block is not known yet, so the instances cannot be asked.")
		return
	}
	endpoints, _ := state.endpoints()
	f, d := r.admin.fleet(endpoints, state.ID.ValueString(), 0)
	defer f.close()
	if resp.Diagnostics.Append(d...); resp.Diagnostics.HasError() {
		return
	}
	var silent diag.Diagnostics
	there := f.configs(ctx, &silent)
	imported := state.ID.IsNull()
	if imported {
		if resp.Diagnostics.Append(silent...); resp.Diagnostics.HasError() {
			return
		}
		if state.identify(there, &resp.Diagnostics); resp.Diagnostics.HasError() {
			return
		}
	}
	for _, problem := range silent.Errors() {
		resp.Diagnostics.AddWarning(problem.Summary(), problem.Detail()+"\n\nIts state is kept as it was.")
	}
	state.observe(there, imported, &mem, &resp.Diagnostics)
	resp.Diagnostics.Append(resp.State.Set(ctx, state)...)
	mem.keep(ctx, resp.Private, &resp.Diagnostics)
}

// identify takes an imported cluster's identity from its instances.
func (m *clusterModel) identify(there map[string]adminapi.Config, diags *diag.Diagnostics) {
	indexes := map[string]int64{}
	for _, name := range m.names() {
		c := there[name]
		switch {
		case c.ClusterID == "":
			diags.AddError("Instance "+name+" belongs to no cluster", "It has no configuration. Leave it out of the import; the next apply configures it.")
			return
		case !m.ID.IsNull() && m.ID.ValueString() != c.ClusterID:
			diags.AddError("Instances of different clusters", fmt.Sprintf("Instance %s belongs to cluster %s, others to %s. Import each cluster by itself.", name, c.ClusterID, m.ID.ValueString()))
			return
		}
		m.ID = types.StringValue(c.ClusterID)
		i, _ := strconv.ParseInt(c.Settings["proxy_topology_index"], 10, 64)
		indexes[name] = i
	}
	m.TopologyIndexes = numberMap(topologyIndexes(indexes, m.names()))
	endpoints, _ := m.endpoints()
	m.AdminEndpoints = textMap(endpoints)
	m.Generations = numberMap(map[string]int64{})
}

// observe takes over what differs on the instances. Where they differ from each
// other too, the first that differs from the state is shown: what matters is
// that the plan has a change.
func (m *clusterModel) observe(there map[string]adminapi.Config, imported bool, mem *remembered, diags *diag.Diagnostics) {
	before := m.documents()
	seen := document{} // of what all instances share
	for _, key := range sharedKeys() {
		for _, name := range slices.Sorted(maps.Keys(there)) {
			if now := there[name].Settings[key]; there[name].ClusterID != "" && !same(key, before[name][key], now) {
				seen[key] = now
				break
			}
			seen[key] = before[name][key]
		}
	}
	if len(there) > 0 {
		for _, side := range phase.Sides {
			obj, d := sideFields[side].observe(*m.side(side), sideMore, seen)
			diags.Append(d...)
			*m.side(side) = obj
		}
		var d diag.Diagnostics
		m.Settings, d = settingFields.observe(m.Settings, nil, seen)
		diags.Append(d...)
		if text := seen["client_credentials"]; !same("client_credentials", textOf(m.ClientCredentials), text) {
			m.ClientCredentials = lookUp("client_credentials").value(text).(types.String)
		}
	}
	instances := m.Instances.Elements()
	for name, c := range there {
		if c.ClusterID == "" {
			continue
		}
		obj, d := instanceFields.observe(m.instance(name), instanceMore, c.Settings)
		diags.Append(d...)
		if imported {
			obj = m.withTopologyAddress(obj, name, c)
		}
		instances[name] = obj
	}
	m.Instances = types.MapValueMust(instanceType(), instances)
	m.observeSecrets(there, imported, mem, diags)
	m.observeDrift(there, before, imported, mem)
}

// sharedKeys are the settings that all instances have alike.
func sharedKeys() []string {
	out := []string{"client_credentials"}
	for _, fs := range []fields{sideFields[phase.Origin], sideFields[phase.Target], settingFields} {
		for _, f := range fs {
			out = append(out, f.key())
		}
	}
	return out
}

// withTopologyAddress fills in an imported instance's, if it is not simply
// where it listens.
func (m *clusterModel) withTopologyAddress(obj types.Object, name string, c adminapi.Config) types.Object {
	attrs := obj.Attributes()
	addresses := strings.Split(c.Settings["proxy_topology_addresses"], ",")
	i := int(numbersOf(m.TopologyIndexes)[name])
	if i < len(addresses) && strings.TrimSpace(addresses[i]) != textOf(attrs["listen_address"]) {
		attrs["topology_address"] = types.StringValue(strings.TrimSpace(addresses[i]))
	}
	return types.ObjectValueMust(instanceType().AttrTypes, attrs)
}

// observeSecrets sees by the digests that a password was changed. Taking its
// version out of the state makes the plan send it again.
func (m *clusterModel) observeSecrets(there map[string]adminapi.Config, imported bool, mem *remembered, diags *diag.Diagnostics) {
	if imported {
		mem.Digests = map[string]map[string]string{}
	}
	for _, side := range phase.Sides {
		key := passwordKey(side)
		var changed []string
		for _, name := range slices.Sorted(maps.Keys(there)) {
			if imported {
				mem.Digests[name] = there[name].Secrets
				continue
			}
			if stored, ok := mem.Digests[name]; ok && stored[key] != there[name].Secrets[key] {
				changed = append(changed, name)
			}
		}
		if len(changed) == 0 || m.side(side).IsNull() {
			continue
		}
		attrs := m.side(side).Attributes()
		if attrs["password_wo_version"].IsNull() {
			continue
		}
		attrs["password_wo_version"] = types.Int64Null()
		*m.side(side) = types.ObjectValueMust(m.side(side).AttributeTypes(context.Background()), attrs)
		diags.AddAttributeWarning(path.Root(side.String()).AtName("password_wo"), "Password of "+side.String()+" was changed",
			fmt.Sprintf("On %s it is not the one that Terraform stored; the plan sends it again.", strings.Join(changed, ", ")))
	}
}

// observeDrift notes what no attribute shows: where instances differ from each
// other, are empty, or have settings that are not managed here. For people it
// notes which instances are not as the state had them, since an attribute that
// all share cannot show on which of them it was changed.
func (m *clusterModel) observeDrift(there map[string]adminapi.Config, before map[string]document, imported bool, mem *remembered) {
	mem.Drift, mem.Changed = map[string][]string{}, map[string][]string{}
	after := m.documents()
	if imported {
		before = after // there was no state
	}
	generations := numbersOf(m.Generations)
	for name, c := range there {
		generations[name] = int64(c.Generation)
		if c.ClusterID == "" {
			mem.Drift[name] = []string{"no configuration"}
			mem.Changed[name] = mem.Drift[name]
			continue
		}
		if keys := after[name].differences(c.Settings); len(keys) > 0 {
			mem.Drift[name] = keys
		}
		if keys := before[name].differences(c.Settings); len(keys) > 0 {
			mem.Changed[name] = keys
		}
	}
	m.Generations = numberMap(generations)
}

// ImportState takes "name=endpoint,name=endpoint"; the rest is read.
func (r *clusterResource) ImportState(ctx context.Context, req resource.ImportStateRequest, resp *resource.ImportStateResponse) {
	endpoints, err := parseImport(req.ID)
	if err != nil {
		resp.Diagnostics.AddError("Invalid import id", err.Error())
		return
	}
	instances := map[string]attr.Value{}
	for name, endpoint := range endpoints {
		attrs := map[string]attr.Value{}
		for n, kind := range instanceType().AttrTypes {
			attrs[n] = nullOf(kind)
		}
		attrs["admin_endpoint"] = types.StringValue(endpoint)
		instances[name] = types.ObjectValueMust(instanceType().AttrTypes, attrs)
	}
	resp.Diagnostics.Append(resp.State.SetAttribute(ctx, path.Root("instances"), types.MapValueMust(instanceType(), instances))...)
}

// parseImport reads "name=endpoint,name=endpoint".
func parseImport(id string) (map[string]string, error) {
	out := map[string]string{}
	for part := range strings.SplitSeq(id, ",") {
		name, endpoint, ok := strings.Cut(strings.TrimSpace(part), "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("%q is not NAME=ENDPOINT; give all instances like a=https://10.0.0.7:8443,b=https://10.0.0.8:8443", part)
		}
		if problem := checkEndpoint(endpoint); problem != "" {
			return nil, fmt.Errorf("instance %s: %s", name, problem)
		}
		if out[name] != "" {
			return nil, fmt.Errorf("instance %s is given twice; give each once", name)
		}
		out[name] = endpoint
	}
	return out, nil
}
