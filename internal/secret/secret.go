// Package secret holds a string that does not print.
//
// Floor 0: a leaf. It knows nothing of where secrets come from.
package secret

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"log/slog"
)

// Redacted is what every secret prints as: in %v, JSON, YAML and slog.
const Redacted = "[redacted]"

// String is a secret text. Only Reveal gives it out; every formatter, encoder
// and logger sees Redacted (or "" for an empty one, so that "not set" shows).
// The zero value is an empty secret.
type String struct{ text string }

// New wraps text.
func New(text string) String { return String{text: text} }

// Reveal returns the text. A caller never logs, stores or formats it.
func (s String) Reveal() string { return s.text }

// IsSet reports whether the secret is not empty.
func (s String) IsSet() bool { return s.text != "" }

// Equal compares in constant time.
func (s String) Equal(o String) bool {
	return subtle.ConstantTimeCompare([]byte(s.text), []byte(o.text)) == 1
}

// Digest returns "sha256:" and the first 16 hex digits of SHA-256(salt+text):
// enough to see drift, not enough to be worth attacking. An empty secret has
// the digest "".
func (s String) Digest(salt string) string {
	if s.text == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(salt + s.text))
	return "sha256:" + hex.EncodeToString(sum[:8])
}

func (s String) String() string {
	if s.text == "" {
		return ""
	}
	return Redacted
}

// GoString keeps %#v from printing the field.
func (s String) GoString() string { return `"` + s.String() + `"` }

// MarshalText serves JSON and YAML.
func (s String) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText takes the secret as given.
func (s *String) UnmarshalText(b []byte) error {
	s.text = string(b)
	return nil
}

// LogValue serves slog.
func (s String) LogValue() slog.Value { return slog.StringValue(s.String()) }
