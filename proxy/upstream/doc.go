// Package upstream is the proxy's side towards a cluster: the control
// connection that learns its nodes, and pools of shared connections that carry
// many clients' requests.
//
// Floor 3. It knows no clients, no phases and no statements: a request is a
// frame with a Receiver for its outcome.
//
// Goroutines: Cluster.Serve owns one for the control connection and one that
// sweeps overdue requests; each pooled connection has one, which opens it,
// reads it and opens it again. A Receiver is called on them and must not block.
//
// Lock order: Cluster.mu, Pool.mu, and the lock of a connection's Outbox last.
package upstream
