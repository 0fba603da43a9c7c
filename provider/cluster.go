package provider

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/hashicorp/terraform-plugin-log/tflog"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/appliance/rollout"
	"github.com/zdmproject/terraform-provider-zdm/provider/explain"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

var (
	_ resource.ResourceWithConfigure   = (*clusterResource)(nil)
	_ resource.ResourceWithModifyPlan  = (*clusterResource)(nil)
	_ resource.ResourceWithImportState = (*clusterResource)(nil)
)

type clusterResource struct{ admin *admin }

func (r *clusterResource) Metadata(_ context.Context, _ resource.MetadataRequest, resp *resource.MetadataResponse) {
	resp.TypeName = TypeName + "_proxy_cluster"
}

func (r *clusterResource) Configure(_ context.Context, req resource.ConfigureRequest, _ *resource.ConfigureResponse) {
	r.admin, _ = req.ProviderData.(*admin)
}

// remembered is what the provider keeps beside the state, where no plan shows it.
type remembered struct {
	// Digests of the secrets as they were stored, by instance and setting. They
	// are salted by the agent: enough to see that one was changed.
	Digests map[string]map[string]string `json:"digests,omitempty"`
	// Drift: settings that differ on an instance and that no attribute shows.
	Drift map[string][]string `json:"drift,omitempty"`
	// Changed: settings of an instance that are not as the state had them when it
	// was last refreshed.
	Changed map[string][]string `json:"changed,omitempty"`
	// Restarted, while a rolling restart for these triggers is not finished.
	Restarted []string          `json:"restarted,omitempty"`
	Triggers  map[string]string `json:"triggers,omitempty"`
}

const rememberedKey = "remembered"

// private is the framework's private state, whose type cannot be named.
type private interface {
	GetKey(ctx context.Context, key string) ([]byte, diag.Diagnostics)
	SetKey(ctx context.Context, key string, value []byte) diag.Diagnostics
}

func recall(ctx context.Context, p private, diags *diag.Diagnostics) (m remembered) {
	b, d := p.GetKey(ctx, rememberedKey)
	diags.Append(d...)
	if len(b) > 0 {
		if err := json.Unmarshal(b, &m); err != nil {
			diags.AddError("Private state cannot be read", err.Error()+"\n\nRemove the resource from the state and import it again.")
		}
	}
	return m
}

func (m remembered) keep(ctx context.Context, p private, diags *diag.Diagnostics) {
	b, err := json.Marshal(m)
	if err != nil {
		panic(err) // strings only
	}
	diags.Append(p.SetKey(ctx, rememberedKey, b)...)
}

func (m *clusterModel) timing(ctx context.Context) rollout.Timing {
	seconds := func(name string) time.Duration {
		n, _ := m.Rollout.Attributes()[name].(types.Int64)
		return time.Duration(n.ValueInt64()) * time.Second
	}
	return rollout.Timing{Patience: cmp.Or(seconds("ready_timeout_seconds"), 5*time.Minute), Pause: seconds("pause_seconds"), Poll: poll, Say: say(ctx)}
}

// poll is how often one looks at instances that one waits for.
const poll = 500 * time.Millisecond

func say(ctx context.Context) func(rollout.Action) {
	return func(a rollout.Action) {
		tflog.Info(ctx, "rollout", map[string]any{"action": a.Kind.String(), "instance": a.Instance, "reason": a.Reason, "phase": a.Phase.String()})
	}
}

func (r *clusterResource) Create(ctx context.Context, req resource.CreateRequest, resp *resource.CreateResponse) {
	var plan, config clusterModel
	resp.Diagnostics.Append(req.Plan.Get(ctx, &plan)...)
	resp.Diagnostics.Append(req.Config.Get(ctx, &config)...)
	if resp.Diagnostics.HasError() || r.admin.unready(&resp.Diagnostics) {
		return
	}
	mem := r.apply(ctx, &plan, &config, nil, remembered{}, &resp.Diagnostics)
	if resp.Diagnostics.HasError() {
		return // no state: the next apply creates again, which takes over what is there
	}
	resp.Diagnostics.Append(resp.State.Set(ctx, plan)...)
	mem.keep(ctx, resp.Private, &resp.Diagnostics)
}

func (r *clusterResource) Update(ctx context.Context, req resource.UpdateRequest, resp *resource.UpdateResponse) {
	var plan, config, prior clusterModel
	resp.Diagnostics.Append(req.Plan.Get(ctx, &plan)...)
	resp.Diagnostics.Append(req.Config.Get(ctx, &config)...)
	resp.Diagnostics.Append(req.State.Get(ctx, &prior)...)
	mem := recall(ctx, req.Private, &resp.Diagnostics)
	if resp.Diagnostics.HasError() {
		return
	}
	if plan.onlyHere(&prior) {
		resp.Diagnostics.Append(resp.State.Set(ctx, plan)...)
		return
	}
	if r.admin.unready(&resp.Diagnostics) {
		return
	}
	mem = r.apply(ctx, &plan, &config, &prior, mem, &resp.Diagnostics)
	mem.keep(ctx, resp.Private, &resp.Diagnostics)
	if resp.Diagnostics.HasError() {
		return // the old state: the next plan shows what is still to be done
	}
	r.tellOfRemoved(ctx, &prior, &plan, &resp.Diagnostics)
	resp.Diagnostics.Append(resp.State.Set(ctx, plan)...)
}

// unready tells that the provider's credentials are not known.
func (a *admin) unready(diags *diag.Diagnostics) bool {
	if a == nil || a.unknown != "" {
		diags.AddError("The provider's credentials are not known yet", "A value of the provider block is known only after an apply. Apply first what makes it.")
		return true
	}
	return false
}

// onlyHere reports that the plan changes no instance, but for example the
// switch that a destroy needs; that works also while instances are down.
func (m *clusterModel) onlyHere(prior *clusterModel) bool {
	return m.Generations.Equal(prior.Generations) && m.RestartTriggers.Equal(prior.RestartTriggers) && m.AdminEndpoints.Equal(prior.AdminEndpoints)
}

// apply rolls the plan out and completes it with what the agents say. prior is
// nil for a cluster that is being created. It returns what to remember, also
// after an error.
func (r *clusterResource) apply(ctx context.Context, plan, config, prior *clusterModel, mem remembered, diags *diag.Diagnostics) remembered {
	timing := plan.timing(ctx)
	endpoints, _ := plan.endpoints()
	f, d := r.admin.fleet(endpoints, plan.ID.ValueString(), timing.Patience)
	defer f.close()
	if diags.Append(d...); diags.HasError() {
		return mem
	}
	at := path.Root("instances")
	if err := rollout.Await(ctx, f, timing); err != nil {
		explainRun(diags, at, f, err)
		return mem
	}
	there := f.configs(ctx, diags)
	if diags.HasError() {
		return mem
	}
	if prior == nil {
		plan.adopt(there, diags)
	} else {
		plan.checkGenerations(prior, there, diags)
	}
	if diags.HasError() {
		return mem
	}
	for _, a := range f {
		a.cluster = plan.ID.ValueString()
	}
	changes := plan.changes(config, prior, there, mem)
	res, err := rollout.Roll(ctx, f, changes, timing)
	if err != nil {
		mem.Restarted, mem.Triggers = append(mem.Restarted, res.Restarted...), triggersOf(plan)
		plan.explain(diags, f, err)
	} else {
		mem.Restarted, mem.Triggers, mem.Drift, mem.Changed = nil, nil, nil, nil
	}
	if ctx.Err() != nil {
		return mem
	}
	var later diag.Diagnostics // of a look that only completes the state
	now := f.configs(ctx, &later)
	if mem.Digests == nil {
		mem.Digests = map[string]map[string]string{}
	}
	generations := numbersOf(plan.Generations)
	for name, c := range now {
		if _, ours := res.Configs[name]; ours || err == nil {
			mem.Digests[name] = c.Secrets
		}
		generations[name] = int64(c.Generation)
	}
	maps.DeleteFunc(mem.Digests, func(name string, _ map[string]string) bool { return endpoints[name] == "" })
	if err == nil {
		diags.Append(later...)
		plan.Generations = numberMap(generations)
		plan.AdminEndpoints = textMap(endpoints)
	}
	return mem
}

// configs reads all documents; who does not answer is told and left out.
func (f fleet) configs(ctx context.Context, diags *diag.Diagnostics) map[string]adminapi.Config {
	answers := rollout.Ask(ctx, f, func(ctx context.Context, a *agent) (adminapi.Config, error) { return a.Config(ctx) })
	out := map[string]adminapi.Config{}
	for _, name := range slices.Sorted(maps.Keys(answers)) {
		if err := answers[name].Err; err != nil {
			summary, detail := explain.Instance(name, f[name].endpoint, err)
			diags.AddAttributeError(path.Root("instances").AtMapKey(name), summary, detail)
			continue
		}
		out[name] = answers[name].Value
	}
	return out
}

// adopt gives a new cluster its identity: that of instances which are
// configured already under these names, or a new one.
func (m *clusterModel) adopt(there map[string]adminapi.Config, diags *diag.Diagnostics) {
	by := map[string][]string{}
	for _, name := range m.names() {
		if id := there[name].ClusterID; id != "" {
			by[id] = append(by[id], name)
		}
	}
	ids := slices.Sorted(maps.Keys(by))
	switch len(ids) {
	case 0:
		m.ID = types.StringValue(newID())
	case 1:
		m.ID = types.StringValue(ids[0])
		diags.AddWarning("Cluster was taken over", fmt.Sprintf("%s had a configuration already, as cluster %s, which is now managed here.", strings.Join(by[ids[0]], ", "), ids[0]))
	default:
		var lines []string
		for _, id := range ids {
			lines = append(lines, fmt.Sprintf("%s: %s", id, strings.Join(by[id], ", ")))
		}
		diags.AddAttributeError(path.Root("instances"), "Instances of different clusters",
			"These instances are configured already, for more than one cluster:\n\n"+strings.Join(lines, "\n")+"\n\nMake a zdm_proxy_cluster for each, or empty an instance's store to give it to another cluster.")
	}
}

// newID makes a random UUID (RFC 9562, version 4).
func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// checkGenerations refuses to overwrite what the plan has not seen.
func (m *clusterModel) checkGenerations(prior *clusterModel, there map[string]adminapi.Config, diags *diag.Diagnostics) {
	planned := numbersOf(prior.Generations)
	for _, name := range m.names() {
		was, known := planned[name]
		if now := there[name].Generation; known && now != 0 && uint64(was) != now {
			diags.AddAttributeError(path.Root("instances").AtMapKey(name), "Instance "+name+" was changed since the plan",
				fmt.Sprintf("Its configuration is generation %d, and the plan was made for %d. Plan again to see what was changed.", now, was))
		}
	}
}

// changes is what has to be done to each instance.
func (m *clusterModel) changes(config, prior *clusterModel, there map[string]adminapi.Config, mem remembered) map[string]rollout.Change {
	out := map[string]rollout.Change{}
	restart := prior != nil && !m.RestartTriggers.Equal(prior.RestartTriggers)
	goesOn := maps.Equal(mem.Triggers, triggersOf(m))
	for name, d := range m.documents() {
		c := there[name]
		secrets := map[string]string{}
		for _, side := range phase.Sides {
			if text, send := m.password(side, config, prior, c); send {
				secrets[passwordKey(side)] = text
			}
		}
		change := rollout.Change{
			Generation: c.Generation,
			Config:     adminapi.Config{ClusterID: m.ID.ValueString(), Instance: name, Settings: d, Secrets: secrets},
			Put:        c.ClusterID == "" || len(secrets) > 0 || len(d.differences(c.Settings)) > 0,
			Why:        "restart_triggers changed",
			Restart:    restart && !(goesOn && slices.Contains(mem.Restarted, name)),
		}
		out[name] = change
	}
	return out
}

// password says whether an instance has to be sent a side's password. An
// omitted one keeps what is stored, and "" removes it.
func (m *clusterModel) password(side phase.Side, config, prior *clusterModel, there adminapi.Config) (text string, send bool) {
	text = textOf(config.side(side).Attributes()["password_wo"])
	version := m.side(side).Attributes()["password_wo_version"]
	stored := there.Secrets[passwordKey(side)] != ""
	switch {
	case text != "":
		return text, prior == nil || !stored || !version.Equal(prior.side(side).Attributes()["password_wo_version"])
	case version == nil || version.IsNull():
		return "", prior != nil && stored && !prior.side(side).Attributes()["password_wo_version"].IsNull()
	}
	return "", false
}

func triggersOf(m *clusterModel) map[string]string {
	out := map[string]string{}
	for name, v := range m.RestartTriggers.Elements() {
		out[name] = textOf(v)
	}
	return out
}

// explain tells why a roll-out stopped; the problems of a configuration are put
// to the attributes that they come from.
func (m *clusterModel) explain(diags *diag.Diagnostics, f fleet, err error) {
	var (
		s *rollout.Stopped
		p *adminapi.Problem
	)
	at := path.Root("instances")
	if errors.As(err, &s) && s.Instance != "" {
		at = at.AtMapKey(s.Instance)
		if errors.As(s.Cause, &p) {
			for _, problem := range p.Problems {
				key, text, _ := strings.Cut(problem, ":")
				diags.AddAttributeError(attributePath(key, s.Instance), "Invalid setting", key+": "+strings.TrimSpace(text))
			}
		}
	}
	explainRun(diags, at, f, err)
}

// tellOfRemoved warns of instances that were taken out and still serve: they
// stay in their phase when the others move on.
func (r *clusterResource) tellOfRemoved(ctx context.Context, prior, plan *clusterModel, diags *diag.Diagnostics) {
	gone := map[string]string{}
	old, _ := prior.endpoints()
	now, _ := plan.endpoints()
	for name, endpoint := range old {
		if _, stays := now[name]; !stays {
			gone[name] = endpoint
		}
	}
	f, _ := r.admin.fleet(gone, plan.ID.ValueString(), 0)
	defer f.close()
	for _, v := range rollout.Look(ctx, f) {
		if v.Err == nil && v.Status.State == adminapi.Serving {
			diags.AddAttributeWarning(path.Root("instances"), "Instance "+v.Name+" still serves",
				fmt.Sprintf("%s was taken out of the cluster and runs on in phase %s with %d clients. End its machine before the next phase step: the other instances go on without it.",
					v.Name, v.Status.Phase.Phase, clients(v.Status)))
		}
	}
}

func clients(s adminapi.Status) int {
	if s.Proxy == nil {
		return 0
	}
	return s.Proxy.Clients
}

// Delete forgets the cluster. To lock the instances would drop their clients.
func (r *clusterResource) Delete(ctx context.Context, req resource.DeleteRequest, resp *resource.DeleteResponse) {
	var state clusterModel
	if resp.Diagnostics.Append(req.State.Get(ctx, &state)...); resp.Diagnostics.HasError() || state.AllowDestroy.ValueBool() || r.admin.unready(&resp.Diagnostics) {
		return
	}
	endpoints, _ := state.endpoints()
	f, d := r.admin.fleet(endpoints, state.ID.ValueString(), 0)
	defer f.close()
	resp.Diagnostics.Append(d...)
	for _, v := range rollout.Look(ctx, f) {
		n := clients(v.Status)
		switch {
		case v.Err != nil:
			summary, detail := explain.Instance(v.Name, f[v.Name].endpoint, v.Err)
			resp.Diagnostics.AddWarning(summary, detail+"\n\nIt is forgotten all the same.")
		case n > 0:
			resp.Diagnostics.AddError("Instance "+v.Name+" has clients",
				fmt.Sprintf("%d clients are connected to it. Move the application away first, or apply allow_destroy_with_clients = true before the destroy.", n))
		}
	}
}
