// Package lab runs a whole migration on one machine: two real Cassandra
// clusters and any number of our appliances, each node and each appliance on
// its own loopback address, all as ordinary processes without a container
// engine and without any rights beyond those of the user.
//
// Floor 5. It is used by cmd/zdm-lab, by integration tests (package labtest)
// and by the demo. It knows the command lines of our binaries and the admin
// API, and must not know what is inside the proxy, the agent or the provider.
//
// A lab is a folder. Everything that must survive the process that made it is
// in there: state.json (what the lab is), and for each process a folder with
// its configuration, data, log and pid. A process is told by its pid, its start
// time and the boot, so that a reused pid is never taken for it; each also
// carries the lab's folder in its environment, so that Down finds it when the
// pid file was never written.
//
// The package keeps no goroutine: processes are started in their own session
// and outlive the lab's process; Up and Down start goroutines for the time of
// the call and wait for them. All methods may be called from any goroutine.
// Linux only, because it stands on /proc and on 127.0.0.0/8 being local.
package lab
