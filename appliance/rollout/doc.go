// Package rollout changes several instances in an order that keeps the
// application served: configuration and restarts one instance at a time, a
// phase step prepared on all before any takes it.
//
// Floor 4: it knows the admin API's types and the phase table, nothing of HTTP,
// Terraform or the proxy. NextRoll and NextMove are pure: what is wanted and
// what was seen go in, the next action comes out, and nothing else is
// remembered, so a run that ends early is taken up by the next one. Roll and
// Change drive them over instances; they own the goroutines of one look at all
// instances, and wait for them before they go on.
package rollout

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// View is one instance as it was last seen.
type View struct {
	Name string
	// Status is valid if Err is nil; Err says why the instance did not answer.
	Status adminapi.Status
	Err    error
}

// Kind of an action.
type Kind uint8

// The actions. Wait looks again after a while, Done and Stop end.
const (
	Wait Kind = iota + 1
	Put
	Restart
	Prepare
	Commit
	Abort
	Done
	Stop
)

var kinds = [...]string{Wait: "wait", Put: "put", Restart: "restart", Prepare: "prepare", Commit: "commit", Abort: "abort", Done: "done", Stop: "stop"}

func (k Kind) String() string {
	if int(k) < len(kinds) && kinds[k] != "" {
		return kinds[k]
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// Action is what to do next.
type Action struct {
	Kind Kind
	// Instance is "" for Done and for a Stop or Wait that is about all of them.
	Instance string
	// Phase is set for Prepare.
	Phase phase.Phase
	// Reason tells people why one waits or stops; for Prepare it is the reason
	// that the agent is given.
	Reason string
	// After tells what the run leaves behind when a Stop ends it; "" for nothing
	// to tell.
	After string
}

func stop(instance, format string, args ...any) Action {
	return Action{Kind: Stop, Instance: instance, Reason: fmt.Sprintf(format, args...)}
}

func wait(instance, format string, args ...any) Action {
	return Action{Kind: Wait, Instance: instance, Reason: fmt.Sprintf(format, args...)}
}

// A Stopped error ends a run that could not reach what was wanted. What was
// done stays done; the next run goes on from there.
type Stopped struct {
	// Instance is the one that it is about, "" if no single one is.
	Instance string
	Text     string
	// After says what is left behind, "" if Changed does.
	After string
	// Changed lists the instances that this run changed before it stopped.
	Changed []string
	// Cause is the instance's own error, if there was one.
	Cause error
}

func (e *Stopped) Error() string {
	text := e.Text
	if e.Instance != "" {
		text = "instance " + e.Instance + ": " + text
	}
	if e.After != "" {
		text += " (" + e.After + ")"
	}
	return text
}

func (e *Stopped) Unwrap() error { return e.Cause }

// Hopeless reports an error that waiting does not mend: the instance answered
// and refused, or is not the one that its certificate should prove.
func Hopeless(err error) bool {
	var (
		problem  *adminapi.Problem
		verify   *tls.CertificateVerificationError
		unknown  x509.UnknownAuthorityError
		hostname x509.HostnameError
		invalid  x509.CertificateInvalidError
	)
	return errors.As(err, &problem) || errors.As(err, &verify) || errors.As(err, &unknown) ||
		errors.As(err, &hostname) || errors.As(err, &invalid)
}

// well says whether an instance runs what it wants and is ready, and if not, why.
func well(v View) (bool, string) {
	s := &v.Status
	switch {
	case v.Err != nil:
		return false, "does not answer: " + v.Err.Error()
	case s.State == adminapi.Locked:
		return false, "has no configuration"
	case s.Running != s.Generation:
		return false, fmt.Sprintf("runs generation %d and wants %d", s.Running, s.Generation)
	case !s.Ready && len(s.NotReady) == 0:
		return false, "is not ready"
	case !s.Ready:
		return false, "is not ready: " + strings.Join(s.NotReady, "; ")
	}
	return true, ""
}
