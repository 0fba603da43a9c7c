// Package astra reaches a database behind a secure connect bundle: a zip with a
// certificate and the address of a metadata service, which tells the nodes' host
// ids and the proxy that leads to each by the server name in TLS.
//
// Floor 2. It knows nothing of CQL. It has no goroutine of its own.
package astra
