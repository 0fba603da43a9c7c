// Package proxy serves CQL clients from two clusters, as the phase of the
// migration says: it is the request path.
//
// Floor 4. It knows nothing of HTTP, of the agent or of Terraform; cmd/zdm-proxy
// puts those around it.
//
// Goroutines: Server.Serve owns one for each listener, each client session and
// each side's cluster (package upstream); an answer runs on the goroutine of
// the node connection that it came by. None of them blocks on a client. A request
// that has to wait for a connection waits on a goroutine of its own, at most for
// the request time-out, and as long as its session lives.
//
// Lock order: Server.mu, then upstream's Cluster.mu, Pool.mu, and an Outbox
// last. No lock is held across I/O, nor while a Receiver is called.
package proxy
