// Package journal is what an application was told about its writes: an
// append-only file of records, and the state that each row must have because
// of them.
//
// Floor 3: it knows no database, no driver and no proxy, so that the package
// that makes the load and the one that verifies the clusters share nothing
// else. It starts no goroutines.
package journal
