package archtest

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// A pkg is one folder with Go files.
type pkg struct {
	path  string // below the module, "" for the root
	doc   bool   // some file has a package comment
	files []file // not those of tests
	tests []file
}

// A file is one Go file.
type file struct {
	name      string // from the root
	lines     int
	generated bool
	imports   []string // own ones without the module
}

// root is the top of the checkout.
func root(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Dir(filepath.Dir(dir))
}

// eachFile calls f for every file that could be committed. It asks git, and
// walks the tree (without hidden folders) where there is no git.
func eachFile(t *testing.T, f func(name string)) {
	t.Helper()
	top := root(t)
	git := exec.Command("git", "-C", top, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	if out, err := git.Output(); err == nil {
		for name := range strings.SplitSeq(strings.TrimRight(string(out), "\x00"), "\x00") {
			if _, err := os.Stat(filepath.Join(top, name)); err == nil {
				f(name)
			}
		}
		return
	}
	skip := []string{"bin", "dist"}
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		name := strings.TrimPrefix(path, top+string(filepath.Separator))
		switch {
		case err != nil || path == top:
			return err
		case d.IsDir() && (strings.HasPrefix(d.Name(), ".") && d.Name() != ".ci" || slices.Contains(skip, name)):
			return fs.SkipDir
		case !d.IsDir():
			f(filepath.ToSlash(name))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// loaded is read once for all tests, and not changed after.
var loaded struct {
	once sync.Once
	pkgs []*pkg
}

// packages returns every package of the root module.
func packages(t *testing.T) []*pkg {
	t.Helper()
	loaded.once.Do(func() { loaded.pkgs = load(t) })
	return loaded.pkgs
}

func load(t *testing.T) []*pkg {
	t.Helper()
	top := root(t)
	byPath := map[string]*pkg{}
	others := otherModules(t)
	eachFile(t, func(name string) {
		dir := filepath.ToSlash(filepath.Dir(name))
		if !strings.HasSuffix(name, ".go") || strings.Contains("/"+dir+"/", "/testdata/") ||
			slices.ContainsFunc(others, func(m string) bool { return below(dir, m) }) {
			return
		}
		if dir == "." {
			dir = ""
		}
		src, err := os.ReadFile(filepath.Join(top, name))
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), name, src, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			t.Errorf("%v", err)
			return
		}
		p := byPath[dir]
		if p == nil {
			p = &pkg{path: dir}
			byPath[dir] = p
		}
		f := file{name: name, lines: bytes.Count(src, []byte("\n")), generated: ast.IsGenerated(parsed)}
		for _, spec := range parsed.Imports {
			path, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if own, ok := strings.CutPrefix(path+"/", module+"/"); ok {
				path = "./" + strings.TrimSuffix(own, "/")
			}
			f.imports = append(f.imports, path)
		}
		if strings.HasSuffix(name, "_test.go") {
			p.tests = append(p.tests, f)
			return
		}
		p.files = append(p.files, f)
		p.doc = p.doc || parsed.Doc != nil && len(strings.TrimSpace(parsed.Doc.Text())) > 0
	})
	var out []*pkg
	for _, p := range byPath {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b *pkg) int { return strings.Compare(a.path, b.path) })
	return out
}

// otherModules are the folders with a go.mod of their own.
func otherModules(t *testing.T) []string {
	t.Helper()
	var out []string
	eachFile(t, func(name string) {
		if filepath.Base(name) == "go.mod" && name != "go.mod" {
			out = append(out, filepath.ToSlash(filepath.Dir(name)))
		}
	})
	return out
}

// below reports whether path is dir or in it.
func below(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }
