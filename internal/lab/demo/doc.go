// Package demo moves a live application from one real cluster to another by
// changing one Terraform attribute, shows it while it happens, and proves that
// nothing was lost. Its parts serve the commands load and verify too.
//
// Floor 5: it drives the lab, the load, the verifier and a terraform or tofu
// process. It knows the proxy only by its address, and the agent only by its
// admin API.
//
// Goroutines: Run starts the load, the view and the poller of the agents, and
// waits for all of them before it brings the lab down.
package demo
