// Package client is the connection of one client as frames: it reads requests and
// writes answers in the version, segments and compression that were agreed on.
//
// Floor 3. It knows no requests in flight and no clusters; package session has
// those.
//
// Goroutines: it starts none, but a socket that is full has its Outbox start one,
// which Shut awaits. Reading is for one goroutine; answers come from any, and none
// of them blocks.
package client
