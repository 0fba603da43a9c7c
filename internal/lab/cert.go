package lab

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/google/renameio/v2"
)

// Lifetimes: a lab folder may lie about for long, and be brought up again.
const (
	authorityLife   = 5 * 365 * 24 * time.Hour
	certificateLife = 365 * 24 * time.Hour
	// renewBefore is how long a certificate must last, to be used again.
	renewBefore = 7 * 24 * time.Hour
)

// authority signs the certificates of a lab's appliances.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// openAuthority reads ca.pem and ca.key in dir, or makes them.
func openAuthority(dir string) (*authority, error) {
	certFile, keyFile := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "ca.key")
	if pair, err := tls.LoadX509KeyPair(certFile, keyFile); err == nil && lasts(pair.Leaf) {
		if key, ok := pair.PrivateKey.(*ecdsa.PrivateKey); ok {
			return &authority{pair.Leaf, key}, nil
		}
	}
	a := &authority{}
	key, cert, err := issue(certFile, keyFile, &x509.Certificate{
		Subject: pkix.Name{CommonName: "zdm-lab authority"}, IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}, authorityLife, a)
	if err != nil {
		return nil, fmt.Errorf("make the lab's authority: %w", err)
	}
	return &authority{cert, key}, nil
}

// certify makes a certificate for a server at one address, unless there is one
// that this authority signed and that lasts.
func (a *authority) certify(certFile, keyFile, name, address string) error {
	if pair, err := tls.LoadX509KeyPair(certFile, keyFile); err == nil && lasts(pair.Leaf) &&
		pair.Leaf.CheckSignatureFrom(a.cert) == nil && pair.Leaf.VerifyHostname(address) == nil {
		return nil
	}
	_, _, err := issue(certFile, keyFile, &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, IPAddresses: []net.IP{net.ParseIP(address)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, certificateLife, a)
	if err != nil {
		return fmt.Errorf("make the certificate of %s: %w", name, err)
	}
	return nil
}

func lasts(cert *x509.Certificate) bool {
	return cert != nil && time.Now().Add(renewBefore).Before(cert.NotAfter)
}

// issue makes a key and a certificate signed by a, or by itself if a is empty.
func issue(certFile, keyFile string, template *x509.Certificate, life time.Duration, a *authority) (*ecdsa.PrivateKey, *x509.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)); err != nil {
		return nil, nil, err
	}
	// An hour back, for machines whose clocks differ a little.
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(life)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	if err := os.MkdirAll(filepath.Dir(keyFile), 0o700); err != nil {
		return nil, nil, err
	}
	if err := renameio.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), 0o600); err != nil {
		return nil, nil, err
	}
	if err := renameio.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644); err != nil {
		return nil, nil, err
	}
	return key, cert, nil
}

// makeToken writes a new token, unless the file has one.
func makeToken(path string) error {
	_, err := os.Stat(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return renameio.WriteFile(path, []byte(randomText(24)+"\n"), 0o600)
}
