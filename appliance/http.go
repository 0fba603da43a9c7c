package appliance

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/internal/secret"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

const (
	// maxBody bounds a request; a configuration is a few kilobytes.
	maxBody = 1 << 20
	// wrongTokenDelay slows guessing down. Nobody else waits for it.
	wrongTokenDelay = 250 * time.Millisecond
	// wrongTokenEvent is how often wrong tokens make an event, so that they do
	// not push everything else out of the ring. The log has each.
	wrongTokenEvent = 10 * time.Second
	// maxReason bounds the free texts of requests.
	maxReason = 1024
)

// request is one call: what handlers read, and what the audit line says of it.
type request struct {
	*http.Request
	audit []slog.Attr
}

func (r *request) note(attrs ...slog.Attr) { r.audit = append(r.audit, attrs...) }

type handler func(*Agent, *request) answer

var routes = map[string]map[string]handler{
	adminapi.PathStatus:       {http.MethodGet: (*Agent).getStatus},
	adminapi.PathConfig:       {http.MethodGet: (*Agent).getConfig, http.MethodPut: (*Agent).servePutConfig},
	adminapi.PathPhase:        {http.MethodGet: (*Agent).getPhase},
	adminapi.PathPhasePrepare: {http.MethodPost: (*Agent).servePrepare},
	adminapi.PathPhaseCommit:  {http.MethodPost: (*Agent).serveCommit},
	adminapi.PathPhaseAbort:   {http.MethodPost: (*Agent).serveAbort},
	adminapi.PathRestart:      {http.MethodPost: (*Agent).serveRestart},
	adminapi.PathEvents:       {http.MethodGet: (*Agent).getEvents},
}

// Handler serves the admin API to those who have the token; an empty one asks
// for none, for a socket that only its owner may open.
func (a *Agent) Handler(token secret.String) http.Handler {
	guard := &guard{agent: a, token: token}
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		begin := time.Now()
		r := &request{Request: req}
		result := a.answer(guard, r, w)
		status := write(w, result)
		if req.Method != http.MethodGet && req.Method != http.MethodHead {
			a.auditLine(r, result, status, time.Since(begin))
		}
	})
}

func (a *Agent) answer(g *guard, r *request, w http.ResponseWriter) answer {
	if p := g.admit(r); p != nil {
		return answer{err: p}
	}
	methods, known := routes[r.URL.Path]
	if !known {
		return answer{err: problem(notFound, "%q is not a path of this API; the paths are %s", r.URL.Path, strings.Join(slices.Sorted(maps.Keys(routes)), ", "))}
	}
	handle, known := methods[r.Method]
	if !known {
		allow := strings.Join(slices.Sorted(maps.Keys(methods)), ", ")
		w.Header().Set("Allow", allow)
		return answer{err: problem(method, "%s is not for %s; use %s", r.URL.Path, r.Method, allow)}
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	return handle(a, r)
}

// guard checks tokens.
type guard struct {
	agent *Agent
	token secret.String

	events limiter
}

func (g *guard) admit(r *request) *adminapi.Problem {
	if !g.token.IsSet() {
		return nil
	}
	given, found := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	// Digests have one length, so the comparison tells nothing of the token's.
	want, got := sha256.Sum256([]byte(g.token.Reveal())), sha256.Sum256([]byte(given))
	if found && subtle.ConstantTimeCompare(want[:], got[:]) == 1 {
		return nil
	}
	pause(r.Context(), wrongTokenDelay)
	what := "a wrong bearer token"
	if !found {
		what = "no bearer token"
	}
	g.agent.log.Warn("refused a call", "from", r.RemoteAddr, "path", r.URL.Path, "because", what)
	if g.events.allow(time.Now()) {
		g.agent.events.add(kindAuth, "refused a call from %s with %s", r.RemoteAddr, what)
	}
	return problem(unauthorized, "the call has %s; send Authorization: Bearer with the token of this instance", what)
}

// auditLine records an attempt to change something, and how it went.
func (a *Agent) auditLine(r *request, result answer, status int, took time.Duration) {
	who := r.RemoteAddr
	if who == "" || who == "@" {
		who = "unix socket"
	}
	attrs := []slog.Attr{slog.String("from", who), slog.String("method", r.Method), slog.String("path", r.URL.Path), slog.Int("status", status), slog.Duration("took", took)}
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		attrs = append(attrs, slog.String("certificate", r.TLS.PeerCertificates[0].Subject.CommonName))
	}
	attrs = append(attrs, r.audit...)
	if result.err != nil {
		attrs = append(attrs, slog.String("problem", asProblem(result.err).Type))
	}
	a.log.LogAttrs(context.WithoutCancel(r.Context()), slog.LevelInfo, "audit", attrs...)
}

// write sends the answer and returns its status.
func write(w http.ResponseWriter, r answer) int {
	w.Header().Set("Cache-Control", "no-store")
	if r.err != nil {
		p := asProblem(r.err)
		w.Header().Set("Content-Type", adminapi.ProblemType)
		if p.Status == http.StatusUnauthorized {
			w.Header().Set("WWW-Authenticate", `Bearer realm="zdm-appliance"`)
		}
		w.WriteHeader(p.Status)
		_ = json.NewEncoder(w).Encode(p)
		return p.Status
	}
	w.Header().Set("Content-Type", "application/json")
	if r.etag != "" {
		w.Header().Set("ETag", `"`+r.etag+`"`)
	}
	w.WriteHeader(http.StatusOK)
	_ = json.NewEncoder(w).Encode(r.body)
	return http.StatusOK
}

func (a *Agent) getStatus(r *request) answer { return answer{body: a.status(r.Context())} }

func (a *Agent) getConfig(*request) answer { return configOf(a.view.Load()) }

func (a *Agent) getPhase(*request) answer { return phaseOf(a.view.Load(), a.o.Now()) }

func (a *Agent) getEvents(r *request) answer {
	var after uint64
	if text := r.URL.Query().Get("after"); text != "" {
		var err error
		if after, err = strconv.ParseUint(text, 10, 64); err != nil {
			return answer{err: problem(badBody, "after=%q is not a sequence number; use the seq of the last event that you have", text)}
		}
	}
	return answer{body: a.events.after(after)}
}

func (a *Agent) servePutConfig(r *request) answer {
	etag, p := ifMatch(r, adminapi.PathConfig)
	if p != nil {
		return answer{err: p}
	}
	var in adminapi.Config
	if p := decode(r, &in); p != nil {
		return answer{err: p}
	}
	r.note(slog.Uint64("if_match", etag), slog.String("cluster_id", clip(in.ClusterID)), slog.String("instance", clip(in.Instance)))
	result := a.do(r.Context(), func(reply func(answer)) { a.putConfig(in, etag, reply) })
	if c, ok := result.body.(adminapi.Config); ok {
		r.note(slog.Uint64("generation", c.Generation))
	}
	return result
}

func (a *Agent) servePrepare(r *request) answer {
	etag, p := ifMatch(r, adminapi.PathPhase)
	if p != nil {
		return answer{err: p}
	}
	var in adminapi.PrepareRequest
	if p := decode(r, &in); p != nil {
		return answer{err: p}
	}
	r.note(slog.Uint64("if_match", etag), slog.String("phase", in.Phase.String()), slog.String("force_reason", clip(in.ForceReason)))
	switch {
	case in.Phase == phase.None:
		return answer{err: problem(badBody, "phase is missing; give one of %s", strings.Join(phase.Names(), ", "))}
	case in.LeaseSeconds < 0 || in.LeaseSeconds > maxLease:
		return answer{err: problem(badBody, "lease_seconds: %d is not within 0 and %d; 0 means %d", in.LeaseSeconds, maxLease, defaultLease)}
	case len(in.ForceReason) > maxReason:
		return answer{err: problem(badBody, "force_reason: is longer than %d bytes; say it shorter", maxReason)}
	}
	in.ForceReason = strings.TrimSpace(in.ForceReason)
	return a.do(r.Context(), func(reply func(answer)) { a.prepareStep(in, etag, reply) })
}

func (a *Agent) serveCommit(r *request) answer {
	var in adminapi.CommitRequest
	if p := decode(r, &in); p != nil {
		return answer{err: p}
	}
	result := a.do(r.Context(), func(reply func(answer)) { a.commitStep(in.Token, reply) })
	if p, ok := result.body.(adminapi.Phase); ok {
		r.note(slog.String("phase", p.Phase.String()), slog.Uint64("epoch", p.Epoch))
	}
	return result
}

func (a *Agent) serveAbort(r *request) answer {
	var in adminapi.AbortRequest
	if p := decode(r, &in); p != nil {
		return answer{err: p}
	}
	return a.do(r.Context(), func(reply func(answer)) { a.abortStep(in.Token, reply) })
}

func (a *Agent) serveRestart(r *request) answer {
	var in adminapi.RestartRequest
	if p := decode(r, &in); p != nil {
		return answer{err: p}
	}
	r.note(slog.String("reason", clip(in.Reason)))
	result := a.do(r.Context(), func(reply func(answer)) { a.restart(clip(in.Reason), reply) })
	if result.err == nil {
		result.body = a.status(r.Context())
	}
	return result
}

// ifMatch reads the header that a change needs.
func ifMatch(r *request, path string) (uint64, *adminapi.Problem) {
	text := r.Header.Get("If-Match")
	if text == "" {
		return 0, problem(precondition, "a change needs If-Match with the ETag of %s; read that first", path)
	}
	n, err := strconv.ParseUint(strings.Trim(text, `"`), 10, 64)
	if err != nil {
		return 0, problem(precondition, "If-Match is not one ETag of this API; use that of %s", path)
	}
	return n, nil
}

// decode reads exactly one JSON document with known fields only.
func decode(r *request, into any) *adminapi.Problem {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	err := d.Decode(into)
	if err == nil {
		if _, more := d.Token(); more == io.EOF {
			return nil
		}
		err = errors.New("there is more after the document")
	}
	var long *http.MaxBytesError
	if errors.As(err, &long) {
		p := problem(badBody, "the body is longer than %d bytes; send a smaller document", long.Limit)
		p.Status = http.StatusRequestEntityTooLarge
		return p
	}
	if err == io.EOF {
		err = errors.New("it is empty")
	}
	return problem(badBody, "the body is not the JSON document of this call: %v; correct it, and send it again", err)
}

func clip(text string) string {
	if len(text) > maxReason {
		return strings.ToValidUTF8(text[:maxReason], "")
	}
	return text
}
