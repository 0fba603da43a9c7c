// Package load is an application: it writes and reads rows through a CQL
// driver with the driver's ordinary settings, at a given rate, and journals
// what it was told.
//
// Floor 4: it knows package journal and the driver, not the lab and not the
// proxy; it cannot tell proxies from a cluster.
//
// Each worker owns its buckets, is the only one that writes them, and has one
// request in flight. So the state of each row is known exactly, and each read
// is checked against it: what a read gives must be the last acknowledged
// write, or one after it whose outcome is unknown.
//
// Goroutines: Load.Serve starts one for each worker and waits for all.
package load
