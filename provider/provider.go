package provider

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/terraform-plugin-framework-validators/int64validator"
	"github.com/hashicorp/terraform-plugin-framework-validators/stringvalidator"
	"github.com/hashicorp/terraform-plugin-framework/datasource"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/provider"
	"github.com/hashicorp/terraform-plugin-framework/provider/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/zdmproject/terraform-provider-zdm/appliance/client"
	"github.com/zdmproject/terraform-provider-zdm/internal/secret"
)

// Address is the provider's source, and TypeName the prefix of its types.
const (
	Address  = "registry.terraform.io/zdmproject/zdm"
	TypeName = "zdm"
)

// Environment variables that stand in for attributes of the provider block.
const (
	EnvToken     = "ZDM_ADMIN_TOKEN"
	EnvTokenFile = "ZDM_ADMIN_TOKEN_FILE"
	EnvCAFile    = "ZDM_ADMIN_CA_FILE"
)

// New makes a provider of the given version. lookUpEnv is os.LookupEnv; tests
// give their own.
func New(version string, lookUpEnv func(string) (string, bool)) provider.Provider {
	return &zdm{version: version, env: lookUpEnv}
}

type zdm struct {
	version string
	env     func(string) (string, bool)
}

type providerModel struct {
	credentialsModel
	Instances types.Map   `tfsdk:"instances"`
	Timeout   types.Int64 `tfsdk:"request_timeout_seconds"`
}

type credentialsModel struct {
	CAPEM     types.String `tfsdk:"ca_pem"`
	CAFile    types.String `tfsdk:"ca_file"`
	Token     types.String `tfsdk:"token"`
	TokenFile types.String `tfsdk:"token_file"`
}

func (z *zdm) Metadata(_ context.Context, _ provider.MetadataRequest, resp *provider.MetadataResponse) {
	resp.TypeName, resp.Version = TypeName, z.version
}

func (z *zdm) Schema(_ context.Context, _ provider.SchemaRequest, resp *provider.SchemaResponse) {
	top := credentialAttributes(" Applies to every instance that has none of its own.", true)
	top["instances"] = schema.MapNestedAttribute{
		Optional:            true,
		MarkdownDescription: "Credentials of single instances, by name.",
		NestedObject:        schema.NestedAttributeObject{Attributes: credentialAttributes("", false)},
	}
	top["request_timeout_seconds"] = schema.Int64Attribute{
		Optional:            true,
		MarkdownDescription: fmt.Sprintf("How long an agent may take to answer a question. A change has the time that `rollout` gives it. 1 to 600. Default: `%d`.", int(client.DefaultTimeout.Seconds())),
		Validators:          []validator.Int64{int64validator.Between(1, 600)},
	}
	resp.Schema = schema.Schema{
		MarkdownDescription: "Runs a zero downtime migration from one CQL database to another: it configures ZDM proxies through the agents of their appliances, and takes them through the phases of the migration.\n\n" +
			"The credentials of the agents are given here and not in resources, so that refresh, import and destroy have them too. They may be ephemeral values.",
		Attributes: top,
	}
}

func credentialAttributes(scope string, env bool) map[string]schema.Attribute {
	or := func(name string) string {
		if !env {
			return ""
		}
		return " Or the environment variable `" + name + "`."
	}
	return map[string]schema.Attribute{
		"ca_pem": schema.StringAttribute{Optional: true,
			MarkdownDescription: "PEM certificates of the authorities that sign the agents' certificates. Not set means the system's." + scope,
			Validators:          []validator.String{stringvalidator.ConflictsWith(path.MatchRelative().AtParent().AtName("ca_file"))}},
		"ca_file": schema.StringAttribute{Optional: true,
			MarkdownDescription: "File with `ca_pem`." + or(EnvCAFile)},
		"token": schema.StringAttribute{Optional: true, Sensitive: true,
			MarkdownDescription: "Bearer token of the agents." + or(EnvToken) + scope,
			Validators:          []validator.String{stringvalidator.ConflictsWith(path.MatchRelative().AtParent().AtName("token_file"))}},
		"token_file": schema.StringAttribute{Optional: true,
			MarkdownDescription: "File with `token`; white space around it is ignored." + or(EnvTokenFile)},
	}
}

func (z *zdm) Configure(ctx context.Context, req provider.ConfigureRequest, resp *provider.ConfigureResponse) {
	var m providerModel
	if resp.Diagnostics.Append(req.Config.Get(ctx, &m)...); resp.Diagnostics.HasError() {
		return
	}
	a := &admin{byName: map[string]credentials{}, timeout: time.Duration(m.Timeout.ValueInt64()) * time.Second}
	z.fromEnvironment(&m.credentialsModel)
	a.all = m.resolve(path.Empty(), a, &resp.Diagnostics)
	if m.Instances.IsUnknown() {
		a.unknown = "instances"
	} else {
		var byName map[string]credentialsModel
		resp.Diagnostics.Append(m.Instances.ElementsAs(ctx, &byName, false)...)
		for name, c := range byName {
			a.byName[name] = c.resolve(path.Root("instances").AtMapKey(name), a, &resp.Diagnostics)
		}
	}
	resp.ResourceData, resp.DataSourceData = a, a
}

// fromEnvironment fills in what the block does not give at all.
func (z *zdm) fromEnvironment(m *credentialsModel) {
	set := func(to *types.String, name string) {
		if v, ok := z.env(name); ok && v != "" {
			*to = types.StringValue(v)
		}
	}
	if m.CAPEM.IsNull() && m.CAFile.IsNull() {
		set(&m.CAFile, EnvCAFile)
	}
	if m.Token.IsNull() && m.TokenFile.IsNull() {
		if set(&m.Token, EnvToken); m.Token.IsNull() {
			set(&m.TokenFile, EnvTokenFile)
		}
	}
}

// resolve reads the files. What is not known yet is noted in a.
func (m *credentialsModel) resolve(at path.Path, a *admin, diags *diag.Diagnostics) credentials {
	for name, v := range map[string]types.String{"ca_pem": m.CAPEM, "ca_file": m.CAFile, "token": m.Token, "token_file": m.TokenFile} {
		if v.IsUnknown() {
			a.unknown = at.AtName(name).String()
		}
	}
	file := func(name string, v types.String) []byte {
		if v.IsNull() || v.IsUnknown() {
			return nil
		}
		b, err := os.ReadFile(v.ValueString())
		if err != nil {
			diags.AddAttributeError(at.AtName(name), "File cannot be read", err.Error()+"\n\nGive the path of a file that is there and may be read.")
		} else if len(b) == 0 {
			diags.AddAttributeError(at.AtName(name), "File is empty", v.ValueString()+" holds nothing; give another.")
		}
		return b
	}
	var c credentials
	if c.ca = file("ca_file", m.CAFile); c.ca == nil && m.CAPEM.ValueString() != "" {
		c.ca = []byte(m.CAPEM.ValueString())
	}
	if b := file("token_file", m.TokenFile); b != nil {
		c.token = secret.New(strings.TrimSpace(string(b)))
	} else {
		c.token = secret.New(m.Token.ValueString())
	}
	return c
}

func (z *zdm) Resources(context.Context) []func() resource.Resource {
	return []func() resource.Resource{
		func() resource.Resource { return &clusterResource{} },
		func() resource.Resource { return &phaseResource{} },
	}
}

func (z *zdm) DataSources(context.Context) []func() datasource.DataSource {
	return []func() datasource.DataSource{func() datasource.DataSource { return &statusDataSource{} }}
}
