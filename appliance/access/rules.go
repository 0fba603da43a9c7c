package access

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
)

// MinToken bounds tokens from below, in bytes: what cannot be guessed over a
// network.
const MinToken = 16

// Caller is who makes a call.
type Caller struct {
	Name string
	Role adminapi.Role
	// By is how it is known: token, certificate, unix socket.
	By string
}

func (c Caller) String() string { return c.Name + " (" + c.By + ")" }

// Rules are who may call. They are immutable; the zero value knows nobody.
type Rules struct {
	tokens       []token
	certificates []certificate
}

type token struct {
	name    string
	role    adminapi.Role
	hash    [sha256.Size]byte
	expires time.Time // zero for never
}

type certificate struct {
	name, subject, san string
	role               adminapi.Role
}

// The file, as people write it.
type (
	fileRules struct {
		Tokens       []fileToken       `yaml:"tokens"`
		Certificates []fileCertificate `yaml:"certificates"`
	}
	fileToken struct {
		Name    string    `yaml:"name"`
		Role    string    `yaml:"role"`
		SHA256  string    `yaml:"sha256"`
		Expires time.Time `yaml:"expires"`
	}
	fileCertificate struct {
		Name    string `yaml:"name"`
		Role    string `yaml:"role"`
		Subject string `yaml:"subject"`
		SAN     string `yaml:"san"`
	}
)

// Parse reads the text of an access file, and returns every problem at once.
func Parse(text []byte) (*Rules, error) {
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	var file fileRules
	if err := d.Decode(&file); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	r := &Rules{}
	var problems []error
	bad := func(kind string, i int, name, format string, args ...any) {
		problems = append(problems, fmt.Errorf("%s[%d] (%s): %s", kind, i, name, fmt.Sprintf(format, args...)))
	}
	common := func(kind string, i int, name, role string) adminapi.Role {
		if name == "" {
			bad(kind, i, "?", "name is missing; the audit log needs one")
		}
		if role != string(adminapi.RoleRead) && role != string(adminapi.RoleWrite) {
			bad(kind, i, name, "role %q is neither read nor write", role)
		}
		return adminapi.Role(role)
	}
	for i, t := range file.Tokens {
		entry := token{name: t.Name, role: common("tokens", i, t.Name, t.Role), expires: t.Expires}
		hash, err := hex.DecodeString(t.SHA256)
		if err != nil || len(hash) != sha256.Size {
			bad("tokens", i, t.Name, "sha256 is not 64 hexadecimal digits; make an entry with: zdm-appliance token")
		}
		copy(entry.hash[:], hash)
		r.tokens = append(r.tokens, entry)
	}
	for i, c := range file.Certificates {
		if (c.Subject == "") == (c.SAN == "") {
			bad("certificates", i, c.Name, "give either subject or san")
		}
		r.certificates = append(r.certificates, certificate{c.Name, c.Subject, c.SAN, common("certificates", i, c.Name, c.Role)})
	}
	if len(problems) == 0 && len(r.tokens)+len(r.certificates) == 0 {
		return nil, errors.New("it names nobody; give tokens or certificates")
	}
	return r, errors.Join(problems...)
}

// WithToken is r and one more token, which never expires and may write.
func (r *Rules) WithToken(name, text string) *Rules {
	return &Rules{certificates: r.certificates, tokens: append(slices.Clone(r.tokens), token{name: name, role: adminapi.RoleWrite, hash: sha256.Sum256([]byte(text))})}
}

// CheckToken says what is wrong with a token that is to be used.
func CheckToken(text string) error {
	switch {
	case len(text) < MinToken:
		return fmt.Errorf("the token has %d bytes, fewer than %d; make one with: openssl rand -hex 32", len(text), MinToken)
	case strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r >= 0x7f }):
		return errors.New("the token has spaces, or characters that are not ASCII; make one with: openssl rand -hex 32")
	}
	return nil
}

// HashToken is what an access file keeps of a token. A plain hash is enough: a
// token is random and long, so that its hash cannot be searched for.
func HashToken(text string) string {
	hash := sha256.Sum256([]byte(text))
	return hex.EncodeToString(hash[:])
}

// byToken finds the caller with a token. An error says why one that is known is
// not good any more. Hashes are compared, so the time that it takes tells nothing
// of a token.
func (r *Rules) byToken(text string, now time.Time) (Caller, bool, error) {
	hash := sha256.Sum256([]byte(text))
	var expired error
	for _, t := range r.tokens {
		if t.hash != hash {
			continue
		}
		if t.expires.IsZero() || now.Before(t.expires) {
			return Caller{t.name, t.role, "token"}, true, nil
		}
		expired = fmt.Errorf("a token (%s) that expired at %s", t.name, t.expires.UTC().Format(time.RFC3339))
	}
	return Caller{}, false, expired
}

// byCertificate finds the caller with a certificate, which TLS has verified.
func (r *Rules) byCertificate(cert *x509.Certificate) (Caller, bool) {
	for _, c := range r.certificates {
		if c.subject != "" && c.subject == cert.Subject.String() || c.san != "" && slices.Contains(namesOf(cert), c.san) {
			return Caller{c.name, c.role, "certificate"}, true
		}
	}
	return Caller{}, false
}

// namesOf are the subject alternative names.
func namesOf(cert *x509.Certificate) []string {
	names := slices.Concat(cert.DNSNames, cert.EmailAddresses)
	for _, ip := range cert.IPAddresses {
		names = append(names, ip.String())
	}
	for _, u := range cert.URIs {
		names = append(names, u.String())
	}
	return names
}
