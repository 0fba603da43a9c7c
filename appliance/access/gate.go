package access

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
)

// Gate lets callers in. Set its fields before the first call.
type Gate struct {
	// Rules are asked for at each call, so that they can change.
	Rules func() *Rules
	Now   func() time.Time

	slow throttle
}

// Refusal is why a caller was not let in. What is for the log has more than what
// the caller is told.
type Refusal struct {
	*adminapi.Problem
	// Why is what was wrong with the call, for the log.
	Why string
	// Wait is how long the caller should wait before the next attempt; 0 if that
	// makes no difference.
	Wait time.Duration
	// Guess: the answer is to be held back, since it may be one of many.
	Guess bool
}

// Admit finds out who calls. A token counts before a certificate, and a wrong one
// is not made good by a certificate.
func (g *Gate) Admit(r *http.Request) (Caller, *Refusal) {
	source, now := sourceOf(r.RemoteAddr), g.Now()
	if wait := g.slow.wait(source, now); wait > 0 {
		return Caller{}, &Refusal{Why: "too many attempts", Wait: wait, Problem: adminapi.NewProblem(adminapi.TooMany,
			"%s has failed to say who it is too often; wait %s, then try again with the right token", source, wait.Round(time.Second))}
	}
	rules := g.Rules()
	given, shown := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	why := "no bearer token"
	if shown {
		caller, known, expired := rules.byToken(given, now)
		if known {
			g.slow.forget(source)
			return caller, nil
		}
		why = "a wrong bearer token"
		if expired != nil {
			why = expired.Error()
		}
	} else if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		cert := r.TLS.PeerCertificates[0]
		if caller, known := rules.byCertificate(cert); known {
			return caller, nil
		}
		if len(rules.certificates) > 0 {
			why = fmt.Sprintf("a certificate (%s) that nobody is known by", cert.Subject)
		}
	}
	if shown { // a call that says nothing guesses nothing
		g.slow.failed(source, now)
	}
	return Caller{}, &Refusal{Why: why, Guess: shown, Problem: adminapi.NewProblem(adminapi.Unauthorized,
		"the call has %s; send Authorization: Bearer with a token of this instance, or show a certificate that its access file names", why)}
}
