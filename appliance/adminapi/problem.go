package adminapi

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// Kind is what an error of the API is about. It is what callers compare, and the
// anchor of its paragraph in docs/problems.md.
type Kind string

// The kinds of problems.
const (
	Unauthorized  Kind = "unauthorized"
	Forbidden     Kind = "forbidden"
	TooMany       Kind = "too-many"
	NotFound      Kind = "not-found"
	Method        Kind = "method"
	Body          Kind = "body"
	InvalidConfig Kind = "invalid-config"
	Precondition  Kind = "precondition"
	Stale         Kind = "stale"
	Conflict      Kind = "conflict"
	IllegalMove   Kind = "illegal-move"
	NotReady      Kind = "not-ready"
	ApplyFailed   Kind = "apply-failed"
	Internal      Kind = "internal"
)

// problems has the status and title of each kind. A problem may have another
// status of its own; see Calls.
var problems = map[Kind]struct {
	status int
	title  string
}{
	Unauthorized:  {http.StatusUnauthorized, "not authorized"},
	Forbidden:     {http.StatusForbidden, "not allowed"},
	TooMany:       {http.StatusTooManyRequests, "too many calls"},
	NotFound:      {http.StatusNotFound, "not there"},
	Method:        {http.StatusMethodNotAllowed, "method not allowed"},
	Body:          {http.StatusBadRequest, "request not understood"},
	InvalidConfig: {http.StatusUnprocessableEntity, "configuration is invalid"},
	Precondition:  {http.StatusPreconditionRequired, "If-Match is missing"},
	Stale:         {http.StatusPreconditionFailed, "changed in the meantime"},
	Conflict:      {http.StatusConflict, "not now"},
	IllegalMove:   {http.StatusConflict, "phase move refused"},
	NotReady:      {http.StatusConflict, "not ready"},
	ApplyFailed:   {http.StatusBadGateway, "change failed"},
	Internal:      {http.StatusInternalServerError, "agent failed"},
}

// ProblemType is the media type of errors (RFC 9457).
const ProblemType = "application/problem+json"

// problemPage is where each kind is explained, under its own name.
const problemPage = "https://github.com/zdmproject/terraform-provider-zdm/blob/main/docs/problems.md#"

// Problem is an error of the API (RFC 9457).
type Problem struct {
	// Type is the address of the page about its kind.
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	// Detail says what is wrong, and ends with the next thing to try.
	Detail string `json:"detail"`
	// Problems of a configuration, each beginning with the setting's name.
	Problems []string `json:"problems,omitempty"`
}

// NewProblem is a problem of the kind.
func NewProblem(k Kind, format string, args ...any) *Problem {
	row := problems[k]
	return &Problem{Type: problemPage + string(k), Title: row.title, Status: row.status, Detail: fmt.Sprintf(format, args...)}
}

// Kind of the problem; "" if it is none of this API's.
func (p *Problem) Kind() Kind {
	k := Kind(strings.TrimPrefix(p.Type, problemPage))
	if _, known := problems[k]; !known {
		return ""
	}
	return k
}

func (p *Problem) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s", p.Title, p.Detail)
	for _, line := range p.Problems {
		b.WriteString("\n  " + line)
	}
	return b.String()
}

// IsProblem reports whether err is, or wraps, a problem of the kind.
func IsProblem(err error, k Kind) bool {
	var p *Problem
	return errors.As(err, &p) && p.Kind() == k
}
