// Package tlsconf makes TLS out of PEM files: to the nodes of a cluster, and to
// clients. Certificates are read again when their files change, and what is new
// serves the connections that begin then; a file that cannot be used leaves the
// old ones in place, and is told in the log.
//
// Floor 2. It knows the settings' errors and nothing of CQL. It has no
// goroutine: files are looked at when a handshake needs them.
package tlsconf
