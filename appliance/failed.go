package appliance

import (
	"errors"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/proxy/control"
)

// failed is the problem of a change that did not come to its end; then says what
// is the case now and what to try.
func failed(err error, then string) *adminapi.Problem {
	p := adminapi.NewProblem(adminapi.ApplyFailed, "%v; %s", firstLine(err), then)
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
