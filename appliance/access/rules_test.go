package access_test

import (
	"strings"
	"testing"

	"github.com/zdmproject/terraform-provider-zdm/appliance/access"
)

func TestEveryProblemOfAnAccessFileIsTold(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		text string
		want []string // "" for none
	}{
		{"tokens: [{name: a, role: read, sha256: " + access.HashToken("x") + "}]", nil},
		{"", []string{"names nobody"}},
		{"tokens: 7", []string{"cannot unmarshal"}},
		{"people: []", []string{"people"}},
		{"tokens: [{role: admin, sha256: abc}]\ncertificates: [{name: b, role: read}, {name: c, role: write, san: x, subject: y}]",
			[]string{"tokens[0] (?): name is missing", `role "admin"`, "64 hexadecimal digits", "certificates[0] (b): give either", "certificates[1] (c): give either"}},
	} {
		_, err := access.Parse([]byte(test.text))
		if (err == nil) != (test.want == nil) {
			t.Errorf("%q: %v", test.text, err)
			continue
		}
		for _, want := range test.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q: %v, want %q in it", test.text, err, want)
			}
		}
	}
}

func TestTokensThatCouldBeGuessedAreRefused(t *testing.T) {
	t.Parallel()
	for text, good := range map[string]bool{"short": false, "with a space in it and long": false, "0123456789abcdef": true, "ümlaut-0123456789": false} {
		if err := access.CheckToken(text); (err == nil) != good {
			t.Errorf("%q: %v", text, err)
		}
	}
}
