// Package proxy is the server: it has the clusters, the phase and the clients,
// takes new clients and lets old ones go. What happens between a client and the
// clusters is in package session.
//
// Floor 4. It knows nothing of HTTP, of the agent or of Terraform; cmd/zdm-proxy
// puts those around it.
//
// Goroutines: Server.Serve owns one for each listener, one for each session, and
// each side's cluster (package upstream).
//
// Lock order: Server.mu before any lock of session and upstream. It is not held
// across I/O.
package proxy
