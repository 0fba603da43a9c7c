package provider

import (
	"maps"
	"slices"
	"testing"

	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
)

// A setting that all instances share is one attribute, which cannot show whose
// was changed: the warning must.
func TestTheInstanceThatWasChangedIsNamed(t *testing.T) {
	t.Parallel()
	instances := map[string]attr.Value{}
	for _, name := range []string{"a", "b"} {
		attrs := map[string]attr.Value{}
		for n, kind := range instanceType().AttrTypes {
			attrs[n] = nullOf(kind)
		}
		attrs["listen_address"] = types.StringValue("127.0.0.1")
		instances[name] = types.ObjectValueMust(instanceType().AttrTypes, attrs)
	}
	state := clusterModel{
		Instances:       types.MapValueMust(instanceType(), instances),
		Origin:          types.ObjectNull(sideFields[0].attrTypes()),
		Target:          types.ObjectNull(sideFields[1].attrTypes()),
		Settings:        types.ObjectNull(settingFields.attrTypes()),
		TopologyIndexes: numberMap(map[string]int64{"a": 0, "b": 1}),
		Generations:     numberMap(map[string]int64{"a": 1, "b": 1}),
	}
	before := state.documents()
	there := map[string]adminapi.Config{}
	for name, d := range before {
		there[name] = adminapi.Config{ClusterID: "c", Instance: name, Settings: maps.Clone(d), Generation: 1}
	}
	there["a"].Settings["log_level"] = "DEBUG"

	var mem remembered
	plan := state
	refreshed := state
	refreshed.Settings = types.ObjectValueMust(settingFields.attrTypes(), withSetting(t, "log_level", "DEBUG"))
	refreshed.observeDrift(there, before, false, &mem)
	var diags diag.Diagnostics
	plan.announce(&refreshed, mem, []string{"a", "b"}, &diags)
	var got []string
	for _, d := range diags {
		got = append(got, d.Summary())
	}
	if want := []string{"Instance a differs from the state", "Rolling change"}; !slices.Equal(got, want) {
		t.Errorf("warnings %q, want %q", got, want)
	}
	if len(mem.Drift["b"]) == 0 {
		t.Error("b is not noted, so that a plan which keeps what a has would leave b as it is")
	}
}

func withSetting(t *testing.T, name, text string) map[string]attr.Value {
	t.Helper()
	attrs := map[string]attr.Value{}
	for n, kind := range settingFields.attrTypes() {
		attrs[n] = nullOf(kind)
	}
	attrs[name] = types.StringValue(text)
	return attrs
}
