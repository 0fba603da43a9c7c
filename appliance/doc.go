// Package appliance is the agent of one instance: it turns a desired
// configuration and a phase into a running proxy process, and serves the admin
// API that changes both.
//
// A change of the configuration is a transaction. The new generation is stored
// as wanted; a new proxy process gets it and connects to the clusters beside the
// old one; it takes the listening sockets over; the generation is committed; the
// old process drains and ends. Whatever fails before the commit ends the new
// process, and the old one has noticed nothing. A restart is the same with the
// same configuration. A phase step is two calls: prepare proves it and takes a
// lease, commit stores it and applies it in the running process.
//
// What is stored wins: after a crash or a reboot the proxy is started with the
// committed configuration and serves the committed phase. Without a phase the
// client port stays closed.
//
// Floor 4. It knows the proxy only through package control, and nothing of CQL,
// of other instances or of Terraform.
//
// Goroutines: Serve's is the owner of all state that changes; HTTP handlers send
// it operations and read an immutable view. What waits for a process runs beside
// the owner as a task, which ends in a function that the owner runs; Serve
// returns when all tasks have.
package appliance
