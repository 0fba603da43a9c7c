package demo

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/internal/lab"
	"github.com/zdmproject/terraform-provider-zdm/internal/lab/load"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// statusOf returns the call for the agent's GET /v1/status.
func statusOf(a *lab.Appliance) (func(context.Context) (*adminapi.Status, error), error) {
	c, err := a.Client()
	if err != nil {
		return nil, fmt.Errorf("instance %s: %w", a.Name, err)
	}
	return c.Status, nil
}

// variables are those of the example, but for the phase. Terraform reads a
// value that is not a string as an expression, which JSON is.
func variables(l *lab.Lab) (map[string]string, error) {
	instances := make(map[string]any)
	for _, a := range l.Appliances {
		instances[a.Name] = map[string]any{"admin_endpoint": a.AdminURL, "address": a.ListenAddress, "port": a.Port}
	}
	first := l.Appliances[0]
	out := map[string]string{"admin_ca_file": first.CAFile, "admin_token_file": first.TokenFile}
	values := map[string]any{"instances": instances}
	for _, side := range phase.Sides {
		c := l.Cluster(side)
		values[side.String()] = map[string]any{"contact_points": c.ContactPoints(), "port": c.Port, "username": c.Username}
		out[side.String()+"_password"] = c.Password
	}
	for name, value := range values {
		text, err := json.Marshal(value)
		if err != nil {
			return nil, err
		}
		out[name] = string(text)
	}
	return out, nil
}

// FollowPhase returns a function that, called now and then, tells the load
// when all appliances are in another phase. Without appliances it does nothing.
func FollowPhase(ctx context.Context, l *lab.Lab, app *load.Load) (func(), error) {
	all, err := instances(l)
	if err != nil {
		return nil, err
	}
	last := ""
	return func() {
		now := ""
		for i, look := range lookAt(ctx, all) {
			if i > 0 && look.phaseText() != now {
				return // on the way from one to another
			}
			now = look.phaseText()
		}
		if now == last || now == noAnswer {
			return
		}
		last = now
		_ = app.SetPhase(now) // an error of the journal ends Serve too
	}, nil
}
