// Package provider is the Terraform provider: schemas, plans, and how an agent's
// answers become state and diagnostics.
//
// Floor 5: it reaches the agents through appliance/client, leaves the order of
// changes to appliance/rollout, and takes names, bounds and defaults of settings
// from proxy/config. It must not know the proxy, a database driver, or how to
// retry. It starts no goroutines of its own: Terraform calls it, and rollout
// asks several agents at once and waits for them.
package provider
