// Package cluster knows one of the two clusters: its control connection learns
// the nodes, their versions and their clock, and keeps what it knows up to date.
// It also opens the session of any other connection to a node (Handshake), since
// the control connection's own begins the same way.
//
// Floor 2. It knows no pools and no requests of clients. Its messages are few
// and small, so it reads and writes them with the reference codec.
//
// Goroutines: Control.Serve owns the connection and its reader, one at a time.
package cluster
