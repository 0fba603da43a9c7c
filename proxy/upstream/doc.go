// Package upstream carries requests to a cluster: pools of connections to its
// nodes that many clients share. Which nodes there are it hears from the
// cluster's control connection, which it runs.
//
// Floor 3. It knows no clients, no phases and no statements: a request is a
// frame with a Receiver for its outcome.
//
// Goroutines: Pools.Serve owns one for the control connection and one that
// sweeps overdue requests; each pooled connection has one, which opens it,
// reads it and opens it again. A Receiver is called on them and must not block.
//
// Lock order: Pools.mu, Pool.mu, and the lock of a connection's Outbox last.
package upstream
