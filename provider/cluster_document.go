package provider

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// document is an instance's settings, as its agent has them.
type document map[string]string

// instance returns the attributes of one instance.
func (m *clusterModel) instance(name string) types.Object {
	obj, _ := m.Instances.Elements()[name].(types.Object)
	return obj
}

func (m *clusterModel) names() []string { return slices.Sorted(maps.Keys(m.Instances.Elements())) }

// endpoints are the admin endpoints; known is false if one is not known yet.
func (m *clusterModel) endpoints() (out map[string]string, known bool) {
	if m.Instances.IsUnknown() {
		return nil, false
	}
	out = map[string]string{}
	for _, name := range m.names() {
		v, ok := m.instance(name).Attributes()["admin_endpoint"].(types.String)
		if !ok || v.IsUnknown() {
			return nil, false
		}
		out[name] = v.ValueString()
	}
	return out, true
}

// documents renders the settings of every instance.
func (m *clusterModel) documents() map[string]document {
	shared := document{}
	for _, side := range phase.Sides {
		sideFields[side].render(*m.side(side), shared)
	}
	settingFields.render(m.Settings, shared)
	if text := textOf(m.ClientCredentials); text != "" {
		shared["client_credentials"] = text
	}
	indexes := numbersOf(m.TopologyIndexes)
	addresses := make([]string, len(m.names()))
	for _, name := range m.names() {
		if i := int(indexes[name]); i < len(addresses) {
			addresses[i] = m.topologyAddress(name)
		}
	}
	shared["proxy_topology_addresses"] = strings.Join(addresses, ",")
	out := map[string]document{}
	for _, name := range m.names() {
		d := maps.Clone(shared)
		instanceFields.render(m.instance(name), d)
		d["proxy_topology_index"] = strconv.FormatInt(indexes[name], 10)
		out[name] = d
	}
	return out
}

func (m *clusterModel) topologyAddress(name string) string {
	attrs := m.instance(name).Attributes()
	if text := textOf(attrs["topology_address"]); text != "" {
		return text
	}
	return textOf(attrs["listen_address"])
}

// differences lists the settings that do not mean the same, sorted.
func (d document) differences(o document) []string {
	keys := maps.Clone(d)
	maps.Copy(keys, o)
	var out []string
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		if !same(key, d[key], o[key]) {
			out = append(out, key)
		}
	}
	return out
}

// numbersOf reads a computed map; what is unknown is left out.
func numbersOf(m types.Map) map[string]int64 {
	out := map[string]int64{}
	for name, v := range m.Elements() {
		if n, ok := v.(types.Int64); ok && !n.IsNull() && !n.IsUnknown() {
			out[name] = n.ValueInt64()
		}
	}
	return out
}

func numberMap[N int | int64 | uint64](m map[string]N) types.Map {
	values := map[string]attr.Value{}
	for name, n := range m {
		values[name] = types.Int64Value(int64(n))
	}
	return types.MapValueMust(types.Int64Type, values)
}

func textMap(m map[string]string) types.Map {
	values := map[string]attr.Value{}
	for name, text := range m {
		values[name] = types.StringValue(text)
	}
	return types.MapValueMust(types.StringType, values)
}

// topologyIndexes gives each name a position from 0, without gaps. Who has one
// keeps it, unless a gap has to be filled because somebody left; then the last
// moves into it.
func topologyIndexes(old map[string]int64, names []string) map[string]int64 {
	out := map[string]int64{}
	taken := map[int64]string{}
	for _, name := range names {
		if i, ok := old[name]; ok && taken[i] == "" {
			out[name], taken[i] = i, name
		}
	}
	free := func() int64 {
		var i int64
		for taken[i] != "" {
			i++
		}
		return i
	}
	for _, name := range names {
		if _, ok := out[name]; !ok {
			i := free()
			out[name], taken[i] = i, name
		}
	}
	for {
		last := slices.Max(slices.Collect(maps.Keys(taken)))
		if last < int64(len(names)) {
			return out
		}
		name, i := taken[last], free()
		delete(taken, last)
		out[name], taken[i] = i, name
	}
}

// attributePath finds the attribute that a setting comes from. instance is
// whose document it is in.
func attributePath(key, instance string) path.Path {
	one := path.Root("instances").AtMapKey(instance)
	for _, f := range instanceFields {
		if f.key() == key {
			return one.AtName(f.name)
		}
	}
	for _, f := range settingFields {
		if f.key() == key {
			return path.Root("settings").AtName(f.name)
		}
	}
	for _, side := range phase.Sides {
		at := path.Root(side.String())
		if key == passwordKey(side) {
			return at.AtName("password_wo")
		}
		for _, f := range sideFields[side] {
			if f.key() == key {
				return at.AtName(f.name)
			}
		}
	}
	switch key {
	case "client_credentials":
		return path.Root(key)
	case "proxy_topology_addresses":
		return one.AtName("topology_address")
	}
	return path.Root("instances")
}
