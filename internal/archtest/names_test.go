package archtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// journeys are the pages that lead through the code by names.
var journeys = []string{"docs/design/request.md", "docs/design/phase-change.md", "docs/design/apply.md"}

// named is `path/of/package.Function` or `path/of/package.Type.Method`.
var named = regexp.MustCompile("`((?:[a-z][a-z0-9-]*/)*[a-z][a-z0-9-]*)\\.([A-Za-z]\\w*(?:\\.[A-Za-z]\\w*)?)`")

func TestTheJourneysNameWhatThereIs(t *testing.T) {
	t.Parallel()
	top := root(t)
	there := map[string]map[string]bool{}
	for _, p := range packages(t) {
		there[p.path] = map[string]bool{}
		for _, f := range p.files {
			parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(top, f.name), nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range parsed.Decls {
				if fn, ok := d.(*ast.FuncDecl); ok {
					there[p.path][receiver(fn)+fn.Name.Name] = true
				}
			}
		}
	}
	for _, page := range journeys {
		text, err := os.ReadFile(filepath.Join(top, page))
		if err != nil {
			t.Error(err)
			continue
		}
		names := named.FindAllStringSubmatch(string(text), -1)
		if len(names) < 10 {
			t.Errorf("%s names %d functions; a journey names those on the way", page, len(names))
		}
		for _, m := range names {
			switch functions, known := there[m[1]]; {
			case m[1] == "system": // a table of the database
			case !known:
				t.Errorf("%s names %s, and there is no package %q", page, m[0], m[1])
			case !functions[m[2]]:
				t.Errorf("%s names %s, and package %q has no function %s", page, m[0], m[1], m[2])
			}
		}
	}
}

// receiver is "Type." for a method and "" for a function.
func receiver(fn *ast.FuncDecl) string {
	if fn.Recv == nil {
		return ""
	}
	expr := fn.Recv.List[0].Type
	for {
		switch e := expr.(type) {
		case *ast.StarExpr:
			expr = e.X
		case *ast.IndexExpr:
			expr = e.X
		case *ast.Ident:
			return strings.TrimPrefix(e.Name, "*") + "."
		default:
			return "?."
		}
	}
}
