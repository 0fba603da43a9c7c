package tlsconf

import (
	"crypto/tls"
	"log/slog"
	"strings"
)

// NewServer reads the files and returns the configuration of a listener for
// clients. With requireClient a client must show a certificate that an authority
// of CA signed; names in it are not looked at.
func NewServer(f Files, requireClient bool, log *slog.Logger) (*tls.Config, error) {
	files, err := Load(log, func() (*tls.Config, error) {
		m, err := f.read(log)
		if err != nil {
			return nil, err
		}
		conf := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{*m.cert}}
		if requireClient {
			conf.ClientAuth, conf.ClientCAs = tls.RequireAndVerifyClientCert, m.pool
			// A resumed session would outlive the authority that was replaced.
			conf.SessionTicketsDisabled = true
		}
		return conf, nil
	}, f.paths()...)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:             tls.VersionTLS12,
		SessionTicketsDisabled: requireClient,
		GetConfigForClient:     func(*tls.ClientHelloInfo) (*tls.Config, error) { return files.Current(), nil },
	}, nil
}

// ClientAdvice is what to do about the TLS error of a client; "" if err is none.
func ClientAdvice(err error) string {
	if err != nil && strings.Contains(err.Error(), "didn't provide a certificate") {
		return "give the client a certificate, or set proxy_tls_require_client_auth to false"
	}
	switch ProblemOf(err) {
	case NoTLS:
		return "the client speaks plain CQL: turn TLS on in it, or leave the proxy_tls_* settings out"
	case Expired:
		return "renew the client's certificate, or correct the clock here"
	case Untrusted:
		return "give the authority that signed the client's certificate in proxy_tls_ca_path"
	case Rejected:
		return "the client did not take the proxy's certificate (proxy_tls_cert_path); give it the authority that signed that"
	}
	return ""
}
