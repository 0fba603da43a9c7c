// Package session serves one client: it reads its requests, sends each to the
// sides that the phase says, and gives it the one answer. It is the request
// path.
//
// Floor 3. It knows no listeners and no other sessions; package proxy has those.
//
// Goroutines: Serve is one, and owns those that send what had to wait for a
// connection. An answer runs on the goroutine of the node connection that it
// came by. None of them blocks on a client.
//
// Lock order: a scope's mu, then upstream's Cluster.mu, Pool.mu, and an Outbox
// last. No lock is held across I/O, nor while a Receiver is called.
package session
