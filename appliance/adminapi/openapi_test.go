package adminapi

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"net/http"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/proxy/control"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

const document = "openapi.json"

var update = flag.Bool("update", false, "write "+document)

func TestTheDocumentIsThatOfTheTypesAndCalls(t *testing.T) {
	want := newWriter(t).document()
	if *update {
		if err := os.WriteFile(document, want, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if !bytes.Equal(OpenAPI, want) {
		t.Errorf("appliance/adminapi/%s differs from the types and calls of the admin API; run make generate, and look at the difference as one who uses the API", document)
	}
}

// object is a JSON object. It is written with its names in order.
type object = map[string]any

// docWriter makes the document of the calls, the types and their comments.
type docWriter struct {
	schemas object
	// comments of types and of their fields: Type, Type.Field; by package path.
	comments map[string]map[string]string
}

// sources are the packages whose types are in the document.
var sources = map[string]string{
	reflect.TypeFor[Status]().PkgPath():         ".",
	reflect.TypeFor[control.Status]().PkgPath(): "../../proxy/control",
}

func newWriter(t *testing.T) *docWriter {
	t.Helper()
	w := &docWriter{schemas: object{}, comments: map[string]map[string]string{}}
	for pkg, dir := range sources {
		comments := map[string]string{}
		w.comments[pkg] = comments
		files, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if !strings.HasSuffix(f.Name(), ".go") || strings.HasSuffix(f.Name(), "_test.go") {
				continue
			}
			parsed, err := parser.ParseFile(token.NewFileSet(), dir+"/"+f.Name(), nil, parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			for _, decl := range parsed.Decls {
				collect(decl, comments)
			}
		}
	}
	return w
}

func collect(decl ast.Decl, comments map[string]string) {
	general, ok := decl.(*ast.GenDecl)
	if !ok || general.Tok != token.TYPE {
		return
	}
	for _, spec := range general.Specs {
		typ := spec.(*ast.TypeSpec)
		name := typ.Name.Name
		doc := typ.Doc
		if doc == nil {
			doc = general.Doc
		}
		comments[name] = oneLine(doc)
		st, ok := typ.Type.(*ast.StructType)
		if !ok {
			continue
		}
		for _, field := range st.Fields.List {
			text := oneLine(field.Doc)
			if text == "" {
				text = oneLine(field.Comment)
			}
			for _, n := range field.Names {
				comments[name+"."+n.Name] = text
			}
		}
	}
}

func oneLine(c *ast.CommentGroup) string { return strings.Join(strings.Fields(c.Text()), " ") }

// enums are the values of types that have few.
var enums = map[reflect.Type][]string{
	reflect.TypeFor[State]():         {string(Locked), string(Configured), string(Serving), string(Drained)},
	reflect.TypeFor[Applied]():       {string(Unchanged), string(Replaced), string(Hot)},
	reflect.TypeFor[EventKind]():     texts(EventKinds),
	reflect.TypeFor[control.State](): {string(control.Idle), string(control.Connecting), string(control.Ready), string(control.Serving), string(control.Draining)},
	// "" is the phase of an instance that was given none yet.
	reflect.TypeFor[phase.Phase](): append([]string{""}, phase.Names()...),
}

func texts[T ~string](values []T) []string {
	out := make([]string, len(values))
	for i, v := range values {
		out[i] = string(v)
	}
	return out
}

// readOnly fields are in answers only.
var readOnly = map[string]bool{"Config.Generation": true, "Config.Running": true, "Config.Applied": true}

func (w *docWriter) schema(t reflect.Type) object {
	if values, ok := enums[t]; ok {
		return object{"type": "string", "enum": values}
	}
	switch {
	case t == reflect.TypeFor[time.Time]():
		return object{"type": "string", "format": "date-time"}
	case t.Kind() == reflect.Pointer:
		return w.schema(t.Elem())
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Uint8:
		return object{"type": "string", "contentEncoding": "base64"}
	case t.Kind() == reflect.Slice:
		return object{"type": "array", "items": w.schema(t.Elem())}
	case t.Kind() == reflect.Map:
		return object{"type": "object", "additionalProperties": w.schema(t.Elem())}
	case t.Kind() == reflect.Struct:
		return w.reference(t)
	case t.Kind() == reflect.Bool:
		return object{"type": "boolean"}
	case t.Kind() == reflect.String:
		return object{"type": "string"}
	case t.Kind() == reflect.Float64:
		return object{"type": "number"}
	case t.Kind() >= reflect.Uint && t.Kind() <= reflect.Uint64:
		return object{"type": "integer", "minimum": 0}
	case t.Kind() >= reflect.Int && t.Kind() <= reflect.Int64:
		return object{"type": "integer"}
	}
	panic("the document has no words for " + t.String())
}

// reference adds a struct to the schemas. Those of the proxy have its name.
func (w *docWriter) reference(t reflect.Type) object {
	name := t.Name()
	if t.PkgPath() == reflect.TypeFor[control.Status]().PkgPath() {
		name = "Proxy" + name
	}
	ref := object{"$ref": "#/components/schemas/" + name}
	if _, known := w.schemas[name]; known {
		return ref
	}
	schema := object{"type": "object", "additionalProperties": false}
	w.schemas[name] = schema
	comments := w.comments[t.PkgPath()]
	describe(schema, comments[t.Name()])
	properties, required := object{}, []string{}
	for i := range t.NumField() {
		field := t.Field(i)
		key, options, _ := strings.Cut(field.Tag.Get("json"), ",")
		property := w.schema(field.Type)
		describe(property, comments[t.Name()+"."+field.Name])
		if readOnly[t.Name()+"."+field.Name] {
			property["readOnly"] = true
		}
		properties[key] = property
		if options == "" {
			required = append(required, key)
		}
	}
	schema["properties"], schema["required"] = properties, required
	return ref
}

func describe(o object, text string) {
	if text != "" {
		o["description"] = text
	}
}

func (w *docWriter) document() []byte {
	paths := object{}
	for i := range Calls {
		c := &Calls[i]
		item, ok := paths[c.Path].(object)
		if !ok {
			item = object{}
			paths[c.Path] = item
		}
		item[strings.ToLower(c.Method)] = w.operation(c)
	}
	w.reference(reflect.TypeFor[Problem]())
	var types []string
	for k := range problems {
		types = append(types, problemPage+string(k))
	}
	slices.Sort(types)
	w.schemas["Problem"].(object)["properties"].(object)["type"].(object)["enum"] = types
	doc := object{
		"openapi": "3.1.0",
		"info": object{
			"title": "Admin API of the ZDM appliance", "version": "v1",
			"description": "Configuration and phase of one instance. A change needs If-Match with the ETag of what it changes; an equal document is a success and changes nothing. " +
				"Errors are problem documents (RFC 9457), whose type is the address of a page about them. Times are RFC 3339 in UTC.",
			"license": object{"name": "Apache-2.0", "identifier": "Apache-2.0"},
		},
		"servers":  []object{{"url": "https://{host}:" + strconv.Itoa(DefaultPort), "variables": object{"host": object{"default": "localhost"}}}},
		"security": []object{{"token": []string{}}, {"certificate": []string{}}},
		"paths":    paths,
		"components": object{
			"schemas": w.schemas,
			"securitySchemes": object{
				"token":       object{"type": "http", "scheme": "bearer"},
				"certificate": object{"type": "mutualTLS"},
			},
		},
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	if err := e.Encode(doc); err != nil {
		panic(err)
	}
	return b.Bytes()
}

func (w *docWriter) operation(c *Call) object {
	op := object{"operationId": c.ID, "summary": c.Summary, "x-role": c.Role()}
	var parameters []object
	if strings.Contains(c.Path, "{name}") {
		parameters = append(parameters, object{"name": "name", "in": "path", "required": true,
			"schema": object{"type": "string", "maxLength": MaxMarkName, "pattern": "^[a-z][a-z0-9-]*$"}})
	}
	if c.IfMatch {
		parameters = append(parameters, object{"name": "If-Match", "in": "header", "required": true,
			"description": `the ETag of what is to be changed; "0" if there is none yet`, "schema": object{"type": "string"}})
	}
	for _, q := range c.Query {
		schema := object{"type": "string"}
		if q.Number {
			schema = object{"type": "integer", "minimum": 0}
		} else if q.Values != nil {
			schema["enum"] = q.Values
		}
		parameters = append(parameters, object{"name": q.Name, "in": "query", "description": q.Description, "schema": schema})
	}
	if parameters != nil {
		op["parameters"] = parameters
	}
	if c.In != nil {
		op["requestBody"] = object{"required": true, "content": object{"application/json": object{"schema": w.schema(reflect.TypeOf(c.In))}}}
	}
	op["responses"] = w.responses(c)
	return op
}

func (w *docWriter) responses(c *Call) object {
	content := object{}
	if c.Out != nil {
		content["application/json"] = object{"schema": w.schema(reflect.TypeOf(c.Out))}
	}
	if c.Line != nil {
		content[MediaLines] = object{"schema": w.schema(reflect.TypeOf(c.Line))}
	}
	if c.Media != "" {
		content[c.Media] = object{}
	}
	done := object{"description": "done", "content": content}
	out := object{"200": done}
	if c.ETag {
		done["headers"] = object{"ETag": object{"schema": object{"type": "string"}}}
		if c.Method == http.MethodGet {
			out["304"] = object{"description": "as If-None-Match says"}
		}
	}
	kinds := map[int][]string{}
	for _, k := range slices.Concat(CommonProblems, c.Problems) {
		statuses := []int{problems[k].status}
		if k == Body && c.In != nil { // too long, too slow
			statuses = append(statuses, http.StatusRequestEntityTooLarge, http.StatusRequestTimeout)
		}
		for _, s := range statuses {
			kinds[s] = append(kinds[s], string(k))
		}
	}
	for _, s := range slices.Sorted(maps.Keys(kinds)) {
		out[strconv.Itoa(s)] = object{"description": strings.Join(kinds[s], ", "),
			"content": object{ProblemType: object{"schema": object{"$ref": "#/components/schemas/Problem"}}}}
	}
	return out
}

func TestEveryKindOfProblemHasItsPage(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/problems.md")
	if err != nil {
		t.Fatal(err)
	}
	for k, row := range problems {
		// The anchor that a heading of that text gets.
		if !strings.Contains(string(page), "\n## "+string(k)+"\n") {
			t.Errorf("docs/problems.md has no heading %q", k)
		}
		if row.status < 400 || row.title == "" {
			t.Errorf("%s has status %d and title %q", k, row.status, row.title)
		}
		if p := NewProblem(k, "x"); p.Kind() != k || !strings.HasSuffix(p.Type, "#"+string(k)) {
			t.Errorf("the type of %s is %s", k, p.Type)
		}
		if !IsProblem(fmt.Errorf("wrapped: %w", NewProblem(k, "x")), k) {
			t.Errorf("%s is not found when wrapped", k)
		}
	}
	for line := range strings.Lines(string(page)) {
		if name, found := strings.CutPrefix(strings.TrimSpace(line), "## "); found {
			if _, known := problems[Kind(name)]; !known {
				t.Errorf("docs/problems.md explains %q, which is none", name)
			}
		}
	}
	if k := (&Problem{Type: "about:blank"}).Kind(); k != "" {
		t.Errorf("a problem of others is of kind %q", k)
	}
}
