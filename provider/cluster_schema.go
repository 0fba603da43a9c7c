package provider

import (
	"context"
	"maps"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework-validators/int64validator"
	"github.com/hashicorp/terraform-plugin-framework-validators/mapvalidator"
	"github.com/hashicorp/terraform-plugin-framework-validators/stringvalidator"
	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/planmodifier"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/stringplanmodifier"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// clusterModel is zdm_proxy_cluster. The objects are made of tables, so they
// are read through package-level fields and not through structs.
type clusterModel struct {
	ID                types.String `tfsdk:"id"`
	Instances         types.Map    `tfsdk:"instances"`
	Origin            types.Object `tfsdk:"origin"`
	Target            types.Object `tfsdk:"target"`
	ClientCredentials types.String `tfsdk:"client_credentials"`
	Settings          types.Object `tfsdk:"settings"`
	Rollout           types.Object `tfsdk:"rollout"`
	RestartTriggers   types.Map    `tfsdk:"restart_triggers"`
	AllowDestroy      types.Bool   `tfsdk:"allow_destroy_with_clients"`
	AdminEndpoints    types.Map    `tfsdk:"admin_endpoints"`
	TopologyIndexes   types.Map    `tfsdk:"topology_indexes"`
	Generations       types.Map    `tfsdk:"generations"`
}

func (m *clusterModel) side(s phase.Side) *types.Object {
	if s == phase.Target {
		return &m.Target
	}
	return &m.Origin
}

// instanceFields are the settings that each instance has of its own.
var instanceFields = fields{
	{"listen_address", lookUp("proxy_listen_address").setting},
	{"listen_port", lookUp("proxy_listen_port").setting},
	{"metrics_address", lookUp("metrics_address").setting},
}

// What the objects hold besides settings.
var (
	instanceMore = map[string]attr.Type{"admin_endpoint": types.StringType, "topology_address": types.StringType}
	sideMore     = map[string]attr.Type{"password_wo": types.StringType, "password_wo_version": types.Int64Type}
)

func instanceType() types.ObjectType {
	kinds := instanceFields.attrTypes()
	maps.Copy(kinds, instanceMore)
	return types.ObjectType{AttrTypes: kinds}
}

func (r *clusterResource) Schema(_ context.Context, _ resource.SchemaRequest, resp *resource.SchemaResponse) {
	resp.Schema = schema.Schema{
		MarkdownDescription: strings.Join([]string{
			"Configures the proxies of one migration, through the agents of their appliances.",
			"A change is rolled out to one instance at a time, which has to be ready again before the next is touched; it stops at the first one that is not, and the next apply goes on from there. " +
				"Creating takes over instances that are configured already under these names, and keeps nothing in the state if it fails.",
			"The proxies serve nobody before they have a phase: see `zdm_migration_phase`.",
			"Destroying forgets the cluster: proxies go on running as they are, until their machines are destroyed. It is refused while applications are connected, unless `allow_destroy_with_clients` was applied before.",
		}, "\n\n"),
		Attributes: map[string]schema.Attribute{
			"id": schema.StringAttribute{Computed: true, PlanModifiers: []planmodifier.String{stringplanmodifier.UseStateForUnknown()},
				MarkdownDescription: "Identity of the cluster, made by the provider and kept by every agent. An agent that has another one is never changed."},
			"instances":        instancesAttribute(),
			"origin":           sideAttribute(phase.Origin),
			"target":           sideAttribute(phase.Target),
			"settings":         schema.SingleNestedAttribute{Optional: true, MarkdownDescription: "Settings of all proxies; the names are those of the `ZDM_*` variables in lower case.", Attributes: settingFields.attributes()},
			"rollout":          rolloutAttribute(),
			"restart_triggers": schema.MapAttribute{ElementType: types.StringType, Optional: true, MarkdownDescription: "Any values; when one changes, every proxy process is replaced, one instance at a time."},
			"client_credentials": schema.StringAttribute{Optional: true, MarkdownDescription: lookUp("client_credentials").describe(),
				Validators: []validator.String{valid{lookUp("client_credentials")}}},
			"allow_destroy_with_clients": schema.BoolAttribute{Optional: true,
				MarkdownDescription: "Whether the cluster may be destroyed while applications are connected to it. Must be applied before the destroy. Default: `false`."},
			"admin_endpoints": schema.MapAttribute{ElementType: types.StringType, Computed: true,
				MarkdownDescription: "Admin endpoint of each instance, for `zdm_migration_phase` and `zdm_proxy_status`, which thereby wait for the cluster."},
			"topology_indexes": schema.MapAttribute{ElementType: types.Int64Type, Computed: true,
				MarkdownDescription: "Position of each instance in what drivers are told of the proxies. An instance keeps it when others come."},
			"generations": schema.MapAttribute{ElementType: types.Int64Type, Computed: true,
				MarkdownDescription: "Generation of the configuration that each agent has."},
		},
	}
}

func instancesAttribute() schema.Attribute {
	listen, listenPort, metrics := instanceFields[0], instanceFields[1], instanceFields[2]
	return schema.MapNestedAttribute{
		Required:            true,
		MarkdownDescription: "The appliances by name. A name is an instance's identity; a new machine may take it over.",
		Validators:          []validator.Map{mapvalidator.SizeAtLeast(1)},
		NestedObject: schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
			"admin_endpoint": schema.StringAttribute{Required: true, Validators: []validator.String{endpointValid{}},
				MarkdownDescription: "URL of the agent, like `https://10.0.0.7:8443`."},
			"listen_address": schema.StringAttribute{Required: true, Validators: []validator.String{valid{listen}},
				MarkdownDescription: "Address on which applications are served, usually the machine's own."},
			"listen_port": schema.Int64Attribute{Optional: true, MarkdownDescription: listenPort.describe(), Validators: []validator.Int64{valid{listenPort}}},
			"topology_address": schema.StringAttribute{Optional: true,
				MarkdownDescription: "IP address that drivers are told of, if it is not `listen_address`, as where that is `0.0.0.0` or there is a load balancer in front."},
			"metrics_address": schema.StringAttribute{Optional: true, MarkdownDescription: metrics.describe(), Validators: []validator.String{valid{metrics}}},
		}},
	}
}

func sideAttribute(side phase.Side) schema.Attribute {
	what := "Origin, the cluster that one moves from."
	if side == phase.Target {
		what = "Target, the cluster that one moves to."
	}
	attributes := sideFields[side].attributes()
	sibling := func(name string) path.Expression { return path.MatchRelative().AtParent().AtName(name) }
	attributes["password_wo"] = schema.StringAttribute{Optional: true, WriteOnly: true, Sensitive: true,
		MarkdownDescription: "Password of `username`. It goes to the agents and is never in plan or state; it is sent when `password_wo_version` changes, and to instances that have none.",
		Validators:          []validator.String{stringvalidator.AlsoRequires(sibling("password_wo_version"), sibling("username"))}}
	attributes["password_wo_version"] = schema.Int64Attribute{Optional: true,
		MarkdownDescription: "Change it when `password_wo` changes. Taking it out removes the password from the agents.",
	}
	return schema.SingleNestedAttribute{Required: true, MarkdownDescription: what, Attributes: attributes}
}

func rolloutAttribute() schema.Attribute {
	return schema.SingleNestedAttribute{
		Optional:            true,
		MarkdownDescription: "How changes are rolled out.",
		Attributes: map[string]schema.Attribute{
			"ready_timeout_seconds": schema.Int64Attribute{Optional: true, Validators: []validator.Int64{int64validator.Between(1, 3600)},
				MarkdownDescription: "How long one instance may take to answer, or to be ready after a change, before the roll-out stops. 1 to 3600. Default: `300`."},
			"pause_seconds": schema.Int64Attribute{Optional: true, Validators: []validator.Int64{int64validator.Between(0, 3600)},
				MarkdownDescription: "Wait between two instances, so that drivers find the one again before the next goes. 0 to 3600. Default: `0`."},
		},
	}
}

// endpointValid checks an admin endpoint.
type endpointValid struct{}

func (endpointValid) Description(context.Context) string         { return "https://HOST:PORT" }
func (endpointValid) MarkdownDescription(context.Context) string { return "`https://HOST:PORT`" }

func (endpointValid) ValidateString(_ context.Context, req validator.StringRequest, resp *validator.StringResponse) {
	if req.ConfigValue.IsNull() || req.ConfigValue.IsUnknown() {
		return
	}
	if problem := checkEndpoint(req.ConfigValue.ValueString()); problem != "" {
		resp.Diagnostics.AddAttributeError(req.Path, "Invalid admin endpoint", problem)
	}
}
