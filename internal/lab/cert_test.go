package lab

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"
)

func TestAnAuthoritySignsForOneAddressAndIsKept(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca, err := openAuthority(dir)
	if err != nil {
		t.Fatal(err)
	}
	cert, key := filepath.Join(dir, "a", "tls.pem"), filepath.Join(dir, "a", "tls.key")
	if err := ca.certify(cert, key, "proxy-1", "127.61.3.1"); err != nil {
		t.Fatal(err)
	}
	again, err := openAuthority(dir)
	if err != nil || !again.cert.Equal(ca.cert) {
		t.Fatalf("the authority was made anew (%v), want the same", err)
	}
	before, err := os.ReadFile(cert)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.certify(cert, key, "proxy-1", "127.61.3.1"); err != nil {
		t.Fatal(err)
	}
	if after, err := os.ReadFile(cert); err != nil || string(after) != string(before) {
		t.Errorf("a certificate that lasts was made anew (%v)", err)
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	if _, err := pair.Leaf.Verify(x509.VerifyOptions{DNSName: "127.61.3.1", Roots: roots}); err != nil {
		t.Errorf("verify: %v", err)
	}
	if err := pair.Leaf.VerifyHostname("127.61.3.2"); err == nil {
		t.Error("the certificate is good for another address")
	}
	for _, private := range []string{key, filepath.Join(dir, "ca.key")} {
		if info, err := os.Stat(private); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v; want mode 0600", private, info, err)
		}
	}
	// Another address, and another authority, mean another certificate.
	if err := ca.certify(cert, key, "proxy-1", "127.62.3.1"); err != nil {
		t.Fatal(err)
	}
	if pair, err = tls.LoadX509KeyPair(cert, key); err != nil || pair.Leaf.VerifyHostname("127.62.3.1") != nil {
		t.Errorf("the certificate is not for the new address (%v)", err)
	}
}

func TestATokenIsMadeOnce(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "tls", "token")
	var texts [2]string
	for i := range texts {
		if err := makeToken(path); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		texts[i] = string(b)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 || texts[0] != texts[1] || len(texts[0]) < 40 {
		t.Errorf("tokens of length %d and %d, mode %v, %v; want one long one with mode 0600", len(texts[0]), len(texts[1]), info.Mode(), err)
	}
}
