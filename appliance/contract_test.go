package appliance_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
)

// openAPI is the document of the API, as something else than its writer reads
// it.
var openAPI = sync.OnceValues(func() (doc map[string]any, err error) {
	parsed, err := jsonschema.UnmarshalJSON(bytes.NewReader(adminapi.OpenAPI))
	if err != nil {
		return nil, err
	}
	return parsed.(map[string]any), nil
})

// contract lets every answer of a handler through, and fails the test if the
// document does not have it like that.
func contract(t *testing.T, next http.Handler) http.Handler {
	t.Helper()
	if _, err := openAPI(); err != nil {
		t.Fatal(err)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen := &answerSeen{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(seen, r)
		if err := seen.check(r); err != nil {
			t.Errorf("%s %s answers %d otherwise than the document says: %v\n%s", r.Method, r.URL, seen.status, err, &seen.body)
		}
	})
}

// answerSeen keeps a copy of an answer.
type answerSeen struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
}

func (a *answerSeen) WriteHeader(status int) {
	a.status = status
	a.ResponseWriter.WriteHeader(status)
}

func (a *answerSeen) Write(b []byte) (int, error) {
	a.body.Write(b)
	return a.ResponseWriter.Write(b)
}

func (a *answerSeen) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// at goes down into JSON; nil if there is nothing.
func at(v any, path ...string) any {
	for _, name := range path {
		o, _ := v.(map[string]any)
		v = o[name]
	}
	return v
}

func pathOf(r *http.Request) string {
	if strings.HasPrefix(r.URL.Path, adminapi.PathMarks+"/") {
		return adminapi.PathMark
	}
	return r.URL.Path
}

func (a *answerSeen) check(r *http.Request) error {
	doc, err := openAPI()
	if err != nil {
		return err
	}
	media, _, _ := mime.ParseMediaType(a.Header().Get("Content-Type"))
	operation := at(doc, "paths", pathOf(r), strings.ToLower(r.Method))
	if operation == nil { // a path or method that is not there
		if a.status < 401 || a.status > 429 || media != adminapi.ProblemType {
			return fmt.Errorf("no such call, and no problem (%s)", media)
		}
		return validate(a.body.Bytes(), "/components/schemas/Problem")
	}
	response := at(operation, "responses", strconv.Itoa(a.status))
	switch {
	case response == nil:
		return fmt.Errorf("the status is not foreseen")
	case a.status == http.StatusNotModified:
		return nil
	case at(response, "content", media) == nil:
		return fmt.Errorf("the media type %s is not foreseen", media)
	case at(response, "headers", "ETag") != nil && a.Header().Get("ETag") == "":
		return fmt.Errorf("the ETag is missing")
	}
	if at(response, "content", media, "schema") == nil {
		return nil
	}
	where := "/paths/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(pathOf(r)) + "/" + strings.ToLower(r.Method) +
		"/responses/" + strconv.Itoa(a.status) + "/content/" + strings.ReplaceAll(media, "/", "~1") + "/schema"
	if media != adminapi.MediaLines {
		return validate(a.body.Bytes(), where)
	}
	for line := range bytes.Lines(a.body.Bytes()) {
		if len(bytes.TrimSpace(line)) > 0 && line[len(line)-1] == '\n' {
			if err := validate(line, where); err != nil {
				return err
			}
		}
	}
	return nil
}

// schemas are compiled once; the compiler is for one goroutine at a time.
var schemas struct {
	sync.Mutex
	*jsonschema.Compiler
}

func validate(body []byte, pointer string) error {
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		return err
	}
	schemas.Lock()
	defer schemas.Unlock()
	if schemas.Compiler == nil {
		doc, err := openAPI()
		if err != nil {
			return err
		}
		schemas.Compiler = jsonschema.NewCompiler()
		schemas.DefaultDraft(jsonschema.Draft2020)
		schemas.AssertFormat()
		if err := schemas.AddResource("openapi.json", doc); err != nil {
			return err
		}
	}
	schema, err := schemas.Compile("openapi.json#" + pointer)
	if err != nil {
		return err
	}
	return schema.Validate(value)
}

func TestTheContractSeesWhatIsNotInIt(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		path, media, body string
		status            int
		want              string
	}{
		{adminapi.PathPhase, "application/json", `{"phase":"dual_write","epoch":1}`, 200, ""},
		{adminapi.PathPhase, "application/json", `{"phase":"dual_write","epoch":1,"colour":"red"}`, 200, "colour"},
		{adminapi.PathPhase, "application/json", `{"phase":"half","epoch":1}`, 200, "phase"},
		{adminapi.PathPhase, "application/json", `{"epoch":1}`, 200, "phase"},
		{adminapi.PathPhase, "text/html", `{"phase":"dual_write","epoch":1}`, 200, "media type"},
		{adminapi.PathPhase, "application/json", `{}`, 418, "status"},
		{"/elsewhere", "text/html", `<html>`, 200, "no such call"},
	} {
		a := &answerSeen{ResponseWriter: discarded{http.Header{"Content-Type": {test.media}, "Etag": {`"1"`}}}, status: test.status}
		a.body.WriteString(test.body)
		r, _ := http.NewRequest(http.MethodGet, test.path, nil)
		err := a.check(r)
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%d %s of %s as %s: %v, want %q", test.status, test.body, test.path, test.media, err, test.want)
		}
	}
}

type discarded struct{ header http.Header }

func (d discarded) Header() http.Header         { return d.header }
func (d discarded) Write(b []byte) (int, error) { return len(b), nil }
func (d discarded) WriteHeader(int)             {}

// bodyFor is one that the call takes.
func bodyFor(in *instance, c adminapi.Call) string {
	switch c.ID {
	case "putConfig":
		b, _ := json.Marshal(in.config(hostGood))
		return string(b)
	case "preparePhase":
		return `{"phase":"dual_read"}`
	case "commitPhase", "abortPhase":
		return `{"token":"none"}`
	case "putMark":
		return `{"reason":"because"}`
	case "restart", "drain", "resume":
		return `{"reason":"because"}`
	}
	return ""
}

func TestEveryCallAnswersAsTheDocumentSays(t *testing.T) {
	t.Parallel()
	exporter := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		fmt.Fprintln(w, "node_load1 0.5")
	}))
	defer exporter.Close()
	in := serving(t)
	in.stop()
	in.node = exporter.URL
	in.start()
	in.await("ready", ready)
	for _, c := range adminapi.Calls {
		path := strings.Replace(c.Path, "{name}", "checked", 1)
		body := bodyFor(in, c)
		// What every call answers to who may not, and to who does not fit.
		if resp, p := in.raw(c.Method, path, body, "Authorization", ""); resp.StatusCode != 401 || p.Kind() != adminapi.Unauthorized {
			t.Errorf("%s without a token: %d %s", c.ID, resp.StatusCode, p.Kind())
		}
		resp, p := in.raw(c.Method, path, body, "Authorization", "Bearer "+readToken, "If-Match", `"77"`)
		if forbidden := p.Kind() == adminapi.Forbidden; forbidden != (c.Method != http.MethodGet) {
			t.Errorf("%s by one who may read: %d %s", c.ID, resp.StatusCode, p.Kind())
		}
		if resp, p := in.raw("PATCH", path, body); resp.StatusCode != 405 || p.Kind() != adminapi.Method {
			t.Errorf("PATCH %s: %d %s", path, resp.StatusCode, p.Kind())
		}
		if c.IfMatch {
			if resp, _ := in.raw(c.Method, path, body); resp.StatusCode != 428 {
				t.Errorf("%s without If-Match: %d", c.ID, resp.StatusCode)
			}
		}
		if c.In != nil {
			match := []string{"If-Match", `"1"`}
			if resp, _ := in.raw(c.Method, path, `{"unheard":"of"}`, match...); resp.StatusCode != 400 {
				t.Errorf("%s with an unknown field: %d", c.ID, resp.StatusCode)
			}
			if resp, _ := in.raw(c.Method, path, `{"reason":"`+strings.Repeat("x", 1<<20)+`"}`, match...); resp.StatusCode != 413 {
				t.Errorf("%s with a long body: %d", c.ID, resp.StatusCode)
			}
		}
	}
	// Success of each.
	match := func(n uint64) []string { return []string{"If-Match", fmt.Sprintf(`"%d"`, n)} }
	done := map[string]bool{}
	do := func(id string, header ...string) string {
		t.Helper()
		i := slices.IndexFunc(adminapi.Calls, func(c adminapi.Call) bool { return c.ID == id })
		c := adminapi.Calls[i]
		body := bodyFor(in, c)
		if len(header)%2 == 1 {
			body, header = header[0], header[1:]
		}
		resp, p := in.raw(c.Method, strings.Replace(c.Path, "{name}", "checked", 1), body, header...)
		if resp.StatusCode != 200 {
			t.Errorf("%s: %d %v", id, resp.StatusCode, p.Error())
		}
		done[id] = true
		b, _ := io.ReadAll(resp.Body)
		return string(b)
	}
	for _, c := range adminapi.Calls {
		if c.Method == http.MethodGet && c.ID != "readMark" {
			do(c.ID)
		}
	}
	do("putConfig", match(1)...)
	do("putMark", match(0)...)
	do("readMark")
	do("deleteMark", match(1)...)
	do("preparePhase", match(1)...)
	token := in.status().Phase.Prepared.Token
	do("commitPhase", `{"token":"`+token+`"}`)
	do("abortPhase")
	do("restart")
	do("drain")
	do("resume")
	for _, c := range adminapi.Calls {
		if !done[c.ID] {
			t.Errorf("%s was not made", c.ID)
		}
	}
}

func TestReadingWhatHasNotChangedIsAnsweredWithoutABody(t *testing.T) {
	t.Parallel()
	in := serving(t)
	for _, path := range []string{adminapi.PathConfig, adminapi.PathPhase, adminapi.PathMarks} {
		resp, _ := in.raw("GET", path, "")
		etag := resp.Header.Get("ETag")
		if resp, _ := in.raw("GET", path, "", "If-None-Match", etag); resp.StatusCode != http.StatusNotModified {
			t.Errorf("GET %s with If-None-Match %s: %d", path, etag, resp.StatusCode)
		}
		if resp, _ := in.raw("GET", path, "", "If-None-Match", `"999"`); resp.StatusCode != http.StatusOK {
			t.Errorf("GET %s with If-None-Match of another: %d", path, resp.StatusCode)
		}
	}
}
