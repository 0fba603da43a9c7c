package client

import "bytes"

// What comes to the port that is no CQL, and what to do about it.
const (
	strangerTLS  = "a TLS handshake; this port speaks plain CQL: turn TLS off in the client, or on here with proxy_tls_ca_path, proxy_tls_cert_path and proxy_tls_key_path"
	strangerHTTP = "an HTTP request; this port speaks CQL: metrics, readiness and liveness are on metrics_port"
)

// Stranger names what the client has begun to send instead of CQL, with what to
// do about it; "" if it is nothing known.
func (c *Conn) Stranger() string {
	head := c.Unread()
	// TLS: a record of type handshake, version 3.x (RFC 8446, section 5.1).
	if len(head) >= 2 && head[0] == 22 && head[1] == 3 {
		return strangerTLS
	}
	for _, method := range []string{"GET ", "HEAD", "POST", "PUT ", "OPTI", "CONN", "PRI "} {
		if bytes.HasPrefix(head, []byte(method)) {
			return strangerHTTP
		}
	}
	return ""
}
