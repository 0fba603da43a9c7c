// Package verify reads a cluster in full and reports each write that was
// acknowledged, as the journal says, and is not there as acknowledged.
//
// Floor 4: it knows package journal and the driver, and goes to the clusters
// directly; what lies between them and the application is not its business.
//
// Goroutines: Scan.Each starts a few readers, and Both one for each side; each
// waits for all of its own.
package verify
