package archtest

import (
	"bytes"
	"fmt"
	"go/format"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// report fails the test with all problems.
func report(t *testing.T, problems []string) {
	t.Helper()
	for _, p := range problems {
		t.Error(p)
	}
}

// own returns the path of an own package below the module.
func own(imported string) (string, bool) { return strings.CutPrefix(imported, "./") }

func TestPackagesImportOnlyLowerFloors(t *testing.T) {
	t.Parallel()
	report(t, floorProblems(packages(t)))
}

func floorProblems(pkgs []*pkg) (out []string) {
	for _, p := range pkgs {
		if testOnly[p.path] || len(p.files) == 0 {
			continue
		}
		floor, known := floors[p.path]
		if !known {
			out = append(out, fmt.Sprintf("package %q has no floor; give it a row in internal/archtest/rules_test.go", p.path))
			continue
		}
		for _, f := range p.files {
			for _, imported := range f.imports {
				to, ours := own(imported)
				switch {
				case !ours:
				case testOnly[to]:
					out = append(out, fmt.Sprintf("%s imports %s, which is for tests only", f.name, to))
				case floors[to] >= floor:
					out = append(out, fmt.Sprintf("%s (floor %d) imports %s (floor %d); import only lower floors", f.name, floor, to, floors[to]))
				}
			}
		}
	}
	return out
}

func TestNoForbiddenImports(t *testing.T) {
	t.Parallel()
	report(t, forbiddenProblems(packages(t)))
}

func forbiddenProblems(pkgs []*pkg) (out []string) {
	for _, p := range pkgs {
		for _, f := range p.files {
			for _, imported := range f.imports {
				to, ours := own(imported)
				if !ours {
					to = imported
				}
				if slices.ContainsFunc(allowed, func(a struct{ from, to, why string }) bool { return below(p.path, a.from) && below(to, a.to) }) {
					continue
				}
				for _, rule := range forbidden {
					if below(p.path, rule.from) && below(to, rule.to) {
						out = append(out, fmt.Sprintf("%s imports %s: %s", f.name, to, rule.why))
						break
					}
				}
			}
		}
	}
	return out
}

func TestFilesAndPackagesAreShort(t *testing.T) {
	t.Parallel()
	report(t, sizeProblems(packages(t)))
}

func sizeProblems(pkgs []*pkg) (out []string) {
	for _, p := range pkgs {
		sum := 0
		for _, f := range p.files {
			if f.generated {
				continue
			}
			sum += f.lines
			if f.lines > maxFileLines {
				out = append(out, fmt.Sprintf("%s has %d lines, above %d; tell its story in two files", f.name, f.lines, maxFileLines))
			}
		}
		if sum > maxPackageLines {
			out = append(out, fmt.Sprintf("package %q has %d lines, above %d; find the part that can stand alone", p.path, sum, maxPackageLines))
		}
	}
	return out
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	t.Parallel()
	report(t, docProblems(packages(t)))
}

func docProblems(pkgs []*pkg) (out []string) {
	for _, p := range pkgs {
		if len(p.files) > 0 && !p.doc {
			out = append(out, fmt.Sprintf("package %q has no comment; say its purpose, floor, what it must not know, and its goroutines", p.path))
		}
	}
	return out
}

func TestNoPackageIsADrawer(t *testing.T) {
	t.Parallel()
	report(t, drawerProblems(packages(t)))
}

func drawerProblems(pkgs []*pkg) (out []string) {
	for _, p := range pkgs {
		if last := p.path[strings.LastIndex(p.path, "/")+1:]; drawers[last] {
			out = append(out, fmt.Sprintf("package %q is named after nothing; name it for what it holds", p.path))
		}
	}
	return out
}

func TestGoFilesAreFormatted(t *testing.T) {
	t.Parallel()
	top := root(t)
	eachFile(t, func(name string) {
		if !strings.HasSuffix(name, ".go") || strings.Contains("/"+name, "/testdata/") {
			return
		}
		src, err := os.ReadFile(filepath.Join(top, name))
		if err != nil {
			t.Fatal(err)
		}
		formatted, err := format.Source(src)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if !bytes.Equal(src, formatted) {
			t.Errorf("%s is not formatted; run gofmt -w on it", name)
		}
	})
}

// openEnd is what is left for later and has an issue, not a comment.
var openEnd = regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME)\b`)

func TestNothingIsLeftOpenInTheText(t *testing.T) {
	t.Parallel()
	top := root(t)
	eachFile(t, func(name string) {
		if filepath.Base(name) == "go.sum" { // hashes spell anything
			return
		}
		src, err := os.ReadFile(filepath.Join(top, name))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.IndexByte(src, 0) >= 0 {
			return
		}
		for i, line := range bytes.Split(src, []byte("\n")) {
			if m := openEnd.Find(line); m != nil {
				t.Errorf("%s:%d: %s; do it, or file an issue", name, i+1, m)
			}
		}
	})
}

// go install module@version refuses a module with replace lines.
func TestRootModuleReplacesNothing(t *testing.T) {
	t.Parallel()
	mod, err := os.ReadFile(filepath.Join(root(t), "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	if regexp.MustCompile(`(?m)^\s*replace\b`).Match(mod) {
		t.Error("go.mod has a replace line; such a module cannot be installed by version")
	}
}

func TestRulesFindWhatTheyForbid(t *testing.T) {
	t.Parallel()
	tree := func(path string, imports ...string) []*pkg {
		return []*pkg{{path: path, doc: true, files: []file{{name: path + "/x.go", imports: imports}}}}
	}
	for _, test := range []struct {
		name string
		got  []string
		want []string
	}{
		{"a higher floor", floorProblems(tree("proxy/route", "./proxy/upstream")), []string{"proxy/route/x.go (floor 20) imports proxy/upstream (floor 30); import only lower floors"}},
		{"the same floor", floorProblems(tree("cql/scan", "./cql/frame")), []string{"cql/scan/x.go (floor 10) imports cql/frame (floor 10); import only lower floors"}},
		{"a lower floor", floorProblems(tree("proxy/route", "./proxy/phase", "net/http")), nil},
		{"no floor", floorProblems(tree("proxy/new")), []string{`package "proxy/new" has no floor; give it a row in internal/archtest/rules_test.go`}},
		{"a test package", floorProblems(tree("proxy", "./internal/cqltest")), []string{"proxy/x.go imports internal/cqltest, which is for tests only"}},
		{"the proxy in the provider", forbiddenProblems(tree("provider", "./proxy/upstream")), []string{"provider/x.go imports proxy/upstream: the provider speaks to agents; of the proxy it knows phases and settings only"}},
		{"phases in the provider", forbiddenProblems(tree("provider", "./proxy/phase", "./proxy/config")), nil},
		{"Terraform in the proxy", forbiddenProblems(tree("proxy/upstream", "github.com/hashicorp/terraform-plugin-go/tfprotov6")), []string{
			"proxy/upstream/x.go imports github.com/hashicorp/terraform-plugin-go/tfprotov6: the proxy knows nothing of Terraform"}},
		{"HTTP in the proxy", forbiddenProblems(tree("proxy", "net/http")), []string{"proxy/x.go imports net/http: the proxy knows nothing of HTTP; cmd/zdm-proxy serves its metrics and control socket"}},
		{"a long file", sizeProblems([]*pkg{{path: "p", files: []file{{name: "p/a.go", lines: 601}}}}), []string{"p/a.go has 601 lines, above 600; tell its story in two files"}},
		{"a big package", sizeProblems([]*pkg{{path: "p", files: slices.Repeat([]file{{lines: 500}}, 6)}}), []string{`package "p" has 3000 lines, above 2500; find the part that can stand alone`}},
		{"a long generated file", sizeProblems([]*pkg{{path: "p", files: []file{{lines: 5000, generated: true}}}}), nil},
		{"no comment", docProblems([]*pkg{{path: "p", files: []file{{}}}}), []string{`package "p" has no comment; say its purpose, floor, what it must not know, and its goroutines`}},
		{"a drawer", drawerProblems(tree("internal/util")), []string{`package "internal/util" is named after nothing; name it for what it holds`}},
	} {
		if !slices.Equal(test.got, test.want) {
			t.Errorf("%s: problems %q, want %q", test.name, test.got, test.want)
		}
	}
}

func TestEveryRowOfTheRulesIsOfUse(t *testing.T) {
	t.Parallel()
	there := map[string]bool{}
	for _, p := range packages(t) {
		there[p.path] = true
	}
	for path := range floors {
		if !there[path] {
			t.Errorf("floors has %q, which does not exist; take the row out", path)
		}
	}
	for _, rule := range slices.Concat(forbidden, allowed) {
		if rule.why == "" || rule.from == "" || rule.to == "" {
			t.Errorf("rule %+v is not whole", rule)
		}
	}
}
