package astra

import (
	"archive/zip"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"path"
	"strconv"
	"strings"

	"github.com/zdmproject/terraform-provider-zdm/proxy/tlsconf"
)

// bundle is what the proxy needs of a bundle's files. It is immutable.
type bundle struct {
	metadata string // host:port of the metadata service
	roots    *x509.CertPool
	cert     tls.Certificate
}

// maxMember bounds a file of a bundle: all are a few kilobytes.
const maxMember = 1 << 20

// errBundle ends the errors of a file that is no bundle.
var errBundle = errors.New("download the bundle again from the Astra console")

func readBundle(file string) (*bundle, error) {
	z, err := zip.OpenReader(file)
	if err != nil {
		if errors.Is(err, zip.ErrFormat) {
			return nil, fmt.Errorf("%s is not a zip file; %w", file, errBundle)
		}
		return nil, fmt.Errorf("%w; give the path of a bundle that the proxy may read", err)
	}
	defer func() { _ = z.Close() }() // it was only read
	member := func(name string) ([]byte, error) { return readMember(&z.Reader, file, name) }
	text, err := member("config.json")
	if err != nil {
		return nil, err
	}
	config := struct {
		Host string      `json:"host"`
		Port json.Number `json:"port"`
		CA   string      `json:"caCertLocation"`
		Cert string      `json:"certLocation"`
		Key  string      `json:"keyLocation"`
	}{CA: "ca.crt", Cert: "cert", Key: "key"}
	if err := json.Unmarshal(text, &config); err != nil {
		return nil, fmt.Errorf("config.json in %s: %w; %w", file, err, errBundle)
	}
	port, err := strconv.ParseUint(config.Port.String(), 10, 16)
	if config.Host == "" || err != nil || port == 0 {
		return nil, fmt.Errorf("config.json in %s names no host and port; %w", file, errBundle)
	}
	b := &bundle{metadata: net.JoinHostPort(config.Host, strconv.FormatUint(port, 10)), roots: x509.NewCertPool()}
	var pem [3][]byte
	for i, name := range []string{config.CA, config.Cert, config.Key} {
		if pem[i], err = member(name); err != nil {
			return nil, err
		}
	}
	authorities, err := tlsconf.ParseCertificates(pem[0])
	if err != nil {
		return nil, fmt.Errorf("%s in %s %w", config.CA, file, err)
	}
	for _, c := range authorities {
		b.roots.AddCert(c)
	}
	if b.cert, err = tls.X509KeyPair(pem[1], pem[2]); err != nil {
		return nil, fmt.Errorf("certificate and key in %s: %s; %w", file, strings.TrimPrefix(err.Error(), "tls: "), errBundle)
	}
	return b, nil
}

// readMember reads one file of the zip. Locations begin with "./".
func readMember(z *zip.Reader, file, name string) ([]byte, error) {
	r, err := z.Open(path.Clean(name))
	if err != nil {
		return nil, fmt.Errorf("%s has no %s; %w", file, name, errBundle)
	}
	defer func() { _ = r.Close() }()
	b, err := io.ReadAll(io.LimitReader(r, maxMember+1))
	if err != nil {
		return nil, fmt.Errorf("read %s in %s: %w", name, file, err)
	}
	if len(b) > maxMember {
		return nil, fmt.Errorf("%s in %s is larger than %d bytes; %w", name, file, maxMember, errBundle)
	}
	return b, nil
}
