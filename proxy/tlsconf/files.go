package tlsconf

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/proxy/config"
)

// File is a path with the setting that gave it.
type File struct{ Setting, Path string }

// Files are the PEM files of one leg. Cert and Key are given both or not at all.
type Files struct{ CA, Cert, Key File }

func (f Files) paths() []string { return []string{f.CA.Path, f.Cert.Path, f.Key.Path} }

// material is what Files hold. It is immutable.
type material struct {
	authorities []*x509.Certificate
	pool        *x509.CertPool   // of the authorities, and of nothing else
	cert        *tls.Certificate // nil without Cert and Key
}

// soon is how long before its end a certificate is warned of.
const soon = 30 * 24 * time.Hour

// read reads all files; the error is a *config.Error with every problem.
func (f Files) read(log *slog.Logger) (*material, error) {
	m := &material{pool: x509.NewCertPool()}
	var problems []string
	authorities, err := f.CA.authorities()
	if err != nil {
		problems = append(problems, err.Error())
	}
	m.authorities = authorities
	for _, c := range authorities {
		m.pool.AddCert(c)
	}
	if f.Cert.Path != "" {
		cert, errs := keyPair(f.Cert, f.Key)
		for _, err := range errs {
			problems = append(problems, err.Error())
		}
		m.cert = cert
	}
	if len(problems) > 0 {
		return nil, &config.Error{Problems: problems}
	}
	if m.cert != nil {
		warnOfEnd(log, f.Cert, m.cert.Leaf)
	}
	return m, nil
}

func warnOfEnd(log *slog.Logger, f File, leaf *x509.Certificate) {
	if left := time.Until(leaf.NotAfter); left < soon {
		log.Warn("a certificate ends soon, or has ended; replace the file, which is read without a restart",
			"setting", f.Setting, "path", f.Path, "not_after", leaf.NotAfter)
	}
}

func (f File) load() ([]byte, error) {
	b, err := os.ReadFile(f.Path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w; give a PEM file that the proxy may read", f.Setting, err)
	}
	return b, nil
}

// problem is an error about what is in the file.
func (f File) problem(format string, args ...any) error {
	return fmt.Errorf("%s: %s %s", f.Setting, f.Path, fmt.Sprintf(format, args...))
}

// authorities are the certificates of the file; at least one.
func (f File) authorities() ([]*x509.Certificate, error) {
	b, err := f.load()
	if err != nil {
		return nil, err
	}
	certs, err := ParseCertificates(b)
	if err != nil {
		return nil, f.problem("%v", err)
	}
	return certs, nil
}

// ParseCertificates reads every certificate of a PEM text; there is at least
// one. The error goes on after a file's name.
func ParseCertificates(text []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for rest := text; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("holds a certificate (the %d.) that cannot be read: %w; export it again", len(out)+1, err)
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("holds no certificate in PEM; %s", conversion(text))
	}
	return out, nil
}

// conversion is the way from a format that is not PEM.
func conversion(text []byte) string {
	switch {
	case bytes.HasPrefix(text, []byte{0xfe, 0xed, 0xfe, 0xed}):
		return "it is a Java key store: convert it with keytool -importkeystore to PKCS #12, and that with openssl pkcs12 -nodes"
	case bytes.HasPrefix(text, []byte{0x30}):
		return "it is DER: convert it with openssl x509 -inform der, or openssl pkcs12 -nodes"
	}
	return `give a file with "-----BEGIN CERTIFICATE-----"`
}

func keyPair(cert, key File) (*tls.Certificate, []error) {
	certText, certErr := cert.load()
	if certErr == nil {
		if _, err := ParseCertificates(certText); err != nil {
			certErr = cert.problem("%v", err)
		}
	}
	keyText, keyErr := key.load()
	if keyErr == nil {
		if err := checkKey(keyText); err != nil {
			keyErr = key.problem("%v", err)
		}
	}
	var errs []error
	for _, err := range []error{certErr, keyErr} {
		if err != nil {
			errs = append(errs, err)
		}
	}
	if errs != nil {
		return nil, errs
	}
	pair, err := tls.X509KeyPair(certText, keyText)
	switch {
	case err == nil:
		return &pair, nil
	case strings.Contains(err.Error(), "does not match"):
		return nil, []error{key.problem("is not the key of the certificate in %s; give the two that belong together", cert.Path)}
	}
	return nil, []error{key.problem("and %s do not make a pair: %v", cert.Path, strings.TrimPrefix(err.Error(), "tls: "))}
}

// checkKey tells what X509KeyPair would, in words that help.
func checkKey(text []byte) error {
	for rest := text; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return fmt.Errorf(`holds no private key in PEM; give a file with "-----BEGIN PRIVATE KEY-----"`)
		}
		switch {
		case block.Type == "ENCRYPTED PRIVATE KEY", strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED"):
			return fmt.Errorf("holds an encrypted key; decrypt it with openssl pkey, and protect the file by its mode")
		case strings.HasSuffix(block.Type, "PRIVATE KEY"):
			return nil
		}
	}
}
