package appliance

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/proxy/config"
	"github.com/zdmproject/terraform-provider-zdm/proxy/control"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// kind is a problem's type.
type kind string

const (
	unauthorized  kind = "unauthorized"
	notFound      kind = "not-found"
	method        kind = "method"
	badBody       kind = "body"
	invalidConfig kind = "invalid-config"
	precondition  kind = "precondition"
	stale         kind = "stale"
	conflict      kind = "conflict"
	illegalMove   kind = "illegal-move"
	notReady      kind = "not-ready"
	applyFailed   kind = "apply-failed"
	internal      kind = "internal"
)

var kinds = map[kind]struct {
	status int
	title  string
}{
	unauthorized:  {http.StatusUnauthorized, "not authorized"},
	notFound:      {http.StatusNotFound, "no such call"},
	method:        {http.StatusMethodNotAllowed, "method not allowed"},
	badBody:       {http.StatusBadRequest, "request not understood"},
	invalidConfig: {http.StatusUnprocessableEntity, "configuration is invalid"},
	precondition:  {http.StatusPreconditionRequired, "If-Match is missing"},
	stale:         {http.StatusPreconditionFailed, "changed in the meantime"},
	conflict:      {http.StatusConflict, "not now"},
	illegalMove:   {http.StatusConflict, "phase move refused"},
	notReady:      {http.StatusConflict, "not ready"},
	applyFailed:   {http.StatusBadGateway, "change failed"},
	internal:      {http.StatusInternalServerError, "agent failed"},
}

func problem(k kind, format string, args ...any) *adminapi.Problem {
	row := kinds[k]
	return &adminapi.Problem{Type: string(k), Title: row.title, Status: row.status, Detail: fmt.Sprintf(format, args...)}
}

// asProblem is the one place where errors become problems.
func asProblem(err error) *adminapi.Problem {
	var (
		p       *adminapi.Problem
		invalid *config.Error
		move    *phase.MoveError
	)
	switch {
	case errors.As(err, &p):
		return p
	case errors.As(err, &invalid):
		p := problem(invalidConfig, "%d settings cannot be used; correct them and send the document again", len(invalid.Problems))
		if len(invalid.Problems) == 1 {
			p.Detail = "a setting cannot be used; correct it and send the document again"
		}
		p.Problems = invalid.Problems
		return p
	case errors.As(err, &move):
		return problem(illegalMove, "%s", move.Text)
	}
	return problem(internal, "%v; look at the agent's log", err)
}

// failed is the problem of a change that did not come to its end; then says what
// is the case now and what to try.
func failed(err error, then string) *adminapi.Problem {
	p := problem(applyFailed, "%v; %s", firstLine(err), then)
	var refused *control.Error
	if errors.As(err, &refused) {
		p.Problems = refused.Problems
	}
	return p
}

// firstLine leaves the list of a control.Error to Problems.
func firstLine(err error) string {
	var refused *control.Error
	if errors.As(err, &refused) && err == error(refused) {
		return "the proxy refused it: " + refused.Text
	}
	return err.Error()
}
