package provider

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/appliance/client"
	"github.com/zdmproject/terraform-provider-zdm/appliance/rollout"
	"github.com/zdmproject/terraform-provider-zdm/internal/secret"
	"github.com/zdmproject/terraform-provider-zdm/provider/explain"
)

// admin is how agents are reached: the provider block, resolved.
type admin struct {
	all     credentials
	byName  map[string]credentials
	timeout time.Duration
	// unknown names what Terraform does not know yet, as while it plans before
	// what makes the token exists; "" if all is known.
	unknown string
}

// credentials of one agent, or of all.
type credentials struct {
	ca    []byte
	token secret.String
}

// agent is one instance of a cluster, as rollout wants it. It refuses to speak
// for another one.
type agent struct {
	client         *client.Client
	name, endpoint string
	// cluster is the id that the instance must have; "" for any.
	cluster string
}

type fleet map[string]*agent

// fleet makes the clients of a map of names to endpoints. patience bounds a
// change of one instance.
func (a *admin) fleet(endpoints map[string]string, cluster string, patience time.Duration) (fleet, diag.Diagnostics) {
	var diags diag.Diagnostics
	out := fleet{}
	for name, endpoint := range endpoints {
		own := a.byName[name]
		c := a.all
		if own.ca != nil {
			c.ca = own.ca
		}
		if own.token.IsSet() {
			c.token = own.token
		}
		made, err := client.New(client.Options{URL: endpoint, CA: c.ca, Token: c.token, Timeout: a.timeout, ApplyTimeout: patience})
		if err != nil {
			diags.AddError("Instance "+name+" cannot be reached", err.Error())
			continue
		}
		out[name] = &agent{made, name, endpoint, cluster}
	}
	return out, diags
}

func (f fleet) close() {
	for _, a := range f {
		a.client.Close()
	}
}

// Status is the instance's, or a problem if it is of another cluster or has
// another name: then the endpoint is not the one that was meant.
func (a *agent) Status(ctx context.Context) (adminapi.Status, error) {
	s, err := value(a.client.Status(ctx))
	if err == nil {
		err = a.identify(s.ClusterID, s.Instance)
	}
	return s, err
}

// Config is like Status.
func (a *agent) Config(ctx context.Context) (adminapi.Config, error) {
	c, err := value(a.client.Config(ctx))
	if err == nil {
		err = a.identify(c.ClusterID, c.Instance)
	}
	return c, err
}

func (a *agent) PutConfig(ctx context.Context, cfg adminapi.Config, generation uint64) (adminapi.Config, error) {
	return value(a.client.PutConfig(ctx, &cfg, generation))
}

func (a *agent) Restart(ctx context.Context, reason string) (adminapi.Status, error) {
	return value(a.client.Restart(ctx, reason))
}

func (a *agent) Prepare(ctx context.Context, req adminapi.PrepareRequest, epoch uint64) (adminapi.Phase, error) {
	return value(a.client.Prepare(ctx, req, epoch))
}

func (a *agent) Commit(ctx context.Context, token string) (adminapi.Phase, error) {
	return value(a.client.Commit(ctx, token))
}

func (a *agent) Abort(ctx context.Context, token string) (adminapi.Phase, error) {
	return value(a.client.Abort(ctx, token))
}

// value of what was answered; zero with an error.
func value[T any](answer *T, err error) (v T, _ error) {
	if answer != nil {
		v = *answer
	}
	return v, err
}

func (a *agent) identify(cluster, instance string) error {
	switch {
	case cluster == "":
		return nil
	case a.cluster != "" && cluster != a.cluster:
		return anotherOne("another cluster", "the instance at %s belongs to cluster %s, not to %s; check admin_endpoint", a.endpoint, cluster, a.cluster)
	case instance != a.name:
		return anotherOne("another instance", "the instance at %s is %q, not %q; check whether two endpoints were exchanged", a.endpoint, instance, a.name)
	}
	return nil
}

// anotherOne is a conflict that the agent itself cannot see.
func anotherOne(title, format string, args ...any) error {
	p := adminapi.NewProblem(adminapi.Conflict, format, args...)
	p.Title = title
	return p
}

// explainRun tells why a rolling change or a phase step stopped.
func explainRun(diags *diag.Diagnostics, at path.Path, f fleet, err error) {
	var s *rollout.Stopped
	if !errors.As(err, &s) {
		diags.AddAttributeError(at, "The change was interrupted", err.Error()+"\n\nWhat was done stays done; apply again, and it goes on from there.")
		return
	}
	summary, detail := "The change stopped", s.Text
	if a, ok := f[s.Instance]; ok {
		summary = "The change stopped at instance " + s.Instance
		detail = fmt.Sprintf("instance %s (%s): %s", s.Instance, a.endpoint, s.Text)
		if s.Cause != nil {
			summary, detail = explain.Instance(s.Instance, a.endpoint, s.Cause)
		}
	}
	if s.After != "" {
		detail += "\n\n" + upperFirst(s.After) + "."
	}
	if len(s.Changed) > 0 {
		detail += "\n\nChanged before it: " + strings.Join(s.Changed, ", ") + ". Apply again, and it goes on from there."
	}
	diags.AddAttributeError(at, summary, detail)
}

func upperFirst(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// endpointsOf reads a map of names to endpoints; known is false if any of it is
// not known yet.
func endpointsOf(m types.Map) (endpoints map[string]string, known bool) {
	if m.IsUnknown() {
		return nil, false
	}
	endpoints = map[string]string{}
	for name, v := range m.Elements() {
		s, ok := v.(types.String)
		if !ok || s.IsUnknown() {
			return nil, false
		}
		endpoints[name] = s.ValueString()
	}
	return endpoints, true
}

// checkEndpoint says what is wrong with an admin endpoint, "" if nothing.
func checkEndpoint(text string) string {
	u, err := url.Parse(text)
	switch {
	case !strings.HasPrefix(text, "https://"):
		return fmt.Sprintf("%q does not begin with https://; give a URL like https://10.0.0.7:%d", text, adminapi.DefaultPort)
	case err != nil || u.Hostname() == "":
		return fmt.Sprintf("%q names no host; give a URL like https://10.0.0.7:%d", text, adminapi.DefaultPort)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "" || !slices.Contains([]string{"", "/"}, u.Path):
		return fmt.Sprintf("%q has more than a host and a port; give a URL like https://10.0.0.7:%d", text, adminapi.DefaultPort)
	}
	return ""
}
