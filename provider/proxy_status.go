package provider

import (
	"context"
	"time"

	"github.com/hashicorp/terraform-plugin-framework-validators/mapvalidator"
	"github.com/hashicorp/terraform-plugin-framework/datasource"
	"github.com/hashicorp/terraform-plugin-framework/datasource/schema"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/zdmproject/terraform-provider-zdm/appliance/rollout"
	"github.com/zdmproject/terraform-provider-zdm/proxy/control"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

var _ datasource.DataSourceWithConfigure = (*statusDataSource)(nil)

type statusDataSource struct{ admin *admin }

type statusModel struct {
	ClusterID types.String           `tfsdk:"cluster_id"`
	Instances types.Map              `tfsdk:"instances"`
	Ready     types.Bool             `tfsdk:"ready"`
	Phase     types.String           `tfsdk:"phase"`
	Statuses  map[string]statusEntry `tfsdk:"statuses"`
}

type statusEntry struct {
	Error      string      `tfsdk:"error"`
	State      string      `tfsdk:"state"`
	Phase      string      `tfsdk:"phase"`
	Since      string      `tfsdk:"since"`
	Ready      bool        `tfsdk:"ready"`
	NotReady   []string    `tfsdk:"not_ready"`
	Version    string      `tfsdk:"version"`
	Generation int64       `tfsdk:"generation"`
	Running    int64       `tfsdk:"running"`
	Restarts   int64       `tfsdk:"restarts"`
	Clients    int64       `tfsdk:"clients"`
	InFlight   int64       `tfsdk:"in_flight"`
	Requests   int64       `tfsdk:"requests"`
	Failures   int64       `tfsdk:"failures"`
	Origin     statusSides `tfsdk:"origin"`
	Target     statusSides `tfsdk:"target"`
}

type statusSides struct {
	Connected bool   `tfsdk:"connected"`
	Cluster   string `tfsdk:"cluster_name"`
	Version   string `tfsdk:"release_version"`
	Nodes     int64  `tfsdk:"nodes"`
	NodesUp   int64  `tfsdk:"nodes_up"`
	LastError string `tfsdk:"last_error"`
}

func (d *statusDataSource) Metadata(_ context.Context, _ datasource.MetadataRequest, resp *datasource.MetadataResponse) {
	resp.TypeName = TypeName + "_proxy_status"
}

func (d *statusDataSource) Configure(_ context.Context, req datasource.ConfigureRequest, _ *datasource.ConfigureResponse) {
	d.admin, _ = req.ProviderData.(*admin)
}

func (d *statusDataSource) Schema(_ context.Context, _ datasource.SchemaRequest, resp *datasource.SchemaResponse) {
	text := func(doc string) schema.StringAttribute {
		return schema.StringAttribute{Computed: true, MarkdownDescription: doc}
	}
	number := func(doc string) schema.Int64Attribute {
		return schema.Int64Attribute{Computed: true, MarkdownDescription: doc}
	}
	boolean := func(doc string) schema.BoolAttribute {
		return schema.BoolAttribute{Computed: true, MarkdownDescription: doc}
	}
	side := func(doc string) schema.SingleNestedAttribute {
		return schema.SingleNestedAttribute{Computed: true, MarkdownDescription: doc, Attributes: map[string]schema.Attribute{
			"connected":       boolean("Whether the proxy's control connection is up."),
			"cluster_name":    text("Name of the cluster."),
			"release_version": text("Version of the node that the control connection is with."),
			"nodes":           number("Nodes that the proxy uses."),
			"nodes_up":        number("Those of them that are up."),
			"last_error":      text("Why there is no connection, or why there last was none."),
		}}
	}
	resp.Schema = schema.Schema{
		MarkdownDescription: "How the proxies of a cluster are. An instance that does not answer is no error: `error` says why.",
		Attributes: map[string]schema.Attribute{
			"cluster_id": schema.StringAttribute{Optional: true, MarkdownDescription: "`id` of the `zdm_proxy_cluster`; an instance of another one counts as an error."},
			"instances": schema.MapAttribute{ElementType: types.StringType, Required: true,
				MarkdownDescription: "Admin endpoints by name, usually `admin_endpoints` of a `zdm_proxy_cluster`.",
				Validators:          []validator.Map{mapvalidator.SizeAtLeast(1), mapvalidator.ValueStringsAre(endpointValid{})}},
			"ready": boolean("Whether all instances answer and are ready."),
			"phase": text("The phase that all instances are in; empty if they differ or have none."),
			"statuses": schema.MapNestedAttribute{
				Computed:            true,
				MarkdownDescription: "Status by instance.",
				NestedObject: schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
					"error":      text("Why the instance cannot be asked; empty if it answers."),
					"state":      text("`locked`, `configured` or `serving`."),
					"phase":      text("Phase, empty for none."),
					"since":      text("Since when (RFC 3339)."),
					"ready":      boolean("Whether the proxy runs what is wanted and has what its phase needs."),
					"not_ready":  schema.ListAttribute{ElementType: types.StringType, Computed: true, MarkdownDescription: "Why it is not ready."},
					"version":    text("Version of the agent."),
					"generation": number("Generation of the configuration."),
					"running":    number("Generation that the proxy runs."),
					"restarts":   number("Proxy processes that ended without being asked to."),
					"clients":    number("Connected clients."),
					"in_flight":  number("Requests without an answer yet."),
					"requests":   number("Requests since the proxy process started."),
					"failures":   number("Requests that were answered with an error of the proxy's or a cluster's making."),
					"origin":     side("Origin, as the proxy sees it."),
					"target":     side("Target, as the proxy sees it."),
				}},
			},
		},
	}
}

func (d *statusDataSource) Read(ctx context.Context, req datasource.ReadRequest, resp *datasource.ReadResponse) {
	var m statusModel
	resp.Diagnostics.Append(req.Config.Get(ctx, &m)...)
	if resp.Diagnostics.HasError() || d.admin.unready(&resp.Diagnostics) {
		return
	}
	endpoints, _ := endpointsOf(m.Instances)
	f, diags := d.admin.fleet(endpoints, m.ClusterID.ValueString(), 0)
	defer f.close()
	if resp.Diagnostics.Append(diags...); resp.Diagnostics.HasError() {
		return
	}
	m.Statuses = map[string]statusEntry{}
	ready := true
	phases := map[phase.Phase]bool{}
	for _, v := range rollout.Look(ctx, f) {
		e := entryOf(v)
		m.Statuses[v.Name] = e
		ready = ready && e.Ready
		phases[v.Status.Phase.Phase] = true
	}
	m.Ready, m.Phase = types.BoolValue(ready), types.StringValue("")
	if len(phases) == 1 {
		for p := range phases {
			m.Phase = types.StringValue(phaseText(p))
		}
	}
	resp.Diagnostics.Append(resp.State.Set(ctx, m)...)
}

func entryOf(v rollout.View) statusEntry {
	if v.Err != nil {
		return statusEntry{Error: v.Err.Error(), NotReady: []string{}}
	}
	s := v.Status
	e := statusEntry{
		State: string(s.State), Phase: phaseText(s.Phase.Phase), Ready: s.Ready, NotReady: append([]string{}, s.NotReady...), Version: s.Version,
		Generation: int64(s.Generation), Running: int64(s.Running), Restarts: int64(s.Restarts),
	}
	if !s.Phase.Since.IsZero() {
		e.Since = s.Phase.Since.UTC().Format(time.RFC3339)
	}
	if p := s.Proxy; p != nil {
		e.Clients, e.InFlight = int64(p.Clients), int64(p.InFlight)
		e.Requests, e.Failures = int64(p.Requests), int64(p.Failures)
		e.Origin, e.Target = sideOf(p.Origin), sideOf(p.Target)
	}
	return e
}

func sideOf(c control.Cluster) statusSides {
	return statusSides{c.Connected, c.ClusterName, c.ReleaseVersion, int64(c.Nodes), int64(c.NodesUp), c.LastError}
}
