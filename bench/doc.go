// Command bench measures what a request costs in the proxy process, next to
// HAProxy (a TCP relay to one cluster) and a bare dual relay in Go, on stub
// nodes on loopback. "make bench" runs it; docs/design/performance.md has the
// figures and says how to repeat them.
//
// Floor 6; it runs the proxy as a process and knows none of its packages, but for
// the protocol's.
// One binary plays all parts: the harness starts itself again as two stub
// nodes and as the dual relay. Only the CPU time of the process under test
// counts, read from its own CPU clock, since everything shares the machine.
//
// Goroutines: the load and the stubs are one epoll loop each in the process's
// main goroutine, to leave as much of the machine as possible to the process
// under test; the dual relay documents its own.
package main
