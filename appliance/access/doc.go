// Package access says who may call an instance's admin API, and as what.
//
// A caller is known by a bearer token, of which only the hash is kept, or by the
// client certificate of its TLS connection; a file gives each a name and a role.
// Who cannot be known is slowed down by where it comes from.
//
// Floor 3: it sees requests, and knows nothing of what they ask for. All of it
// is safe for concurrent use, and has no goroutines.
package access
