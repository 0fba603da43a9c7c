package adminhttp

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/appliance"
	"github.com/zdmproject/terraform-provider-zdm/appliance/access"
	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/appliance/recent"
	"github.com/zdmproject/terraform-provider-zdm/proxy/config"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

const (
	// guessDelay slows guessing down. Nobody else waits for it.
	guessDelay = 250 * time.Millisecond
	// refusalEvent is how often refused callers make an event, so that they do not
	// push everything else out of the ring. The log has each.
	refusalEvent = 10 * time.Second
)

// Options of a Handler.
type Options struct {
	Agent  *appliance.Agent
	Events *recent.Events
	Logs   *recent.Logs
	Log    *slog.Logger
	// Gate lets callers in; nil lets everybody in who can open the socket, as one
	// who may write.
	Gate *access.Gate
	// Metrics are the agent's, shared by its handlers.
	Metrics *Metrics
	// NodeMetrics is where node_exporter tells of the machine; "" if it does not run.
	NodeMetrics string
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Handler serves the admin API.
type Handler struct {
	o         Options
	followers chan struct{} // has one for each answer that is followed
	refusals  limiter
}

// New makes a handler; it starts nothing.
func New(o Options) *Handler {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Handler{o: o, followers: make(chan struct{}, maxFollowers)}
}

// request is one call, and what the audit log says of it.
type request struct {
	*http.Request
	w      http.ResponseWriter
	caller access.Caller
	audit  []slog.Attr
}

func (r *request) note(attrs ...slog.Attr) { r.audit = append(r.audit, attrs...) }

// answer is what a call ends in.
type answer struct {
	body any
	etag uint64
	err  error
	// written: the handler has written its answer itself.
	written bool
}

type handler func(*Handler, *request) answer

// handlers by the ID of the call.
var handlers = map[string]handler{
	"readStatus":       (*Handler).readStatus,
	"readConfig":       (*Handler).readConfig,
	"putConfig":        (*Handler).putConfig,
	"readPhase":        (*Handler).readPhase,
	"preparePhase":     (*Handler).preparePhase,
	"commitPhase":      (*Handler).commitPhase,
	"abortPhase":       (*Handler).abortPhase,
	"restart":          (*Handler).restart,
	"drain":            (*Handler).drain,
	"resume":           (*Handler).resume,
	"readMarks":        (*Handler).readMarks,
	"readMark":         (*Handler).readMark,
	"putMark":          (*Handler).putMark,
	"deleteMark":       (*Handler).deleteMark,
	"readEvents":       (*Handler).readEvents,
	"readLogs":         (*Handler).readLogs,
	"readOpenAPI":      (*Handler).readOpenAPI,
	"readMetrics":      (*Handler).readMetrics,
	"readProxyMetrics": (*Handler).readProxyMetrics,
	"readNodeMetrics":  (*Handler).readNodeMetrics,
}

// routes are the calls by path and method.
var routes = func() map[string]map[string]*adminapi.Call {
	out := map[string]map[string]*adminapi.Call{}
	for i := range adminapi.Calls {
		c := &adminapi.Calls[i]
		if out[c.Path] == nil {
			out[c.Path] = map[string]*adminapi.Call{}
		}
		out[c.Path][c.Method] = c
	}
	return out
}()

// routeOf finds the calls of a path. Paths are compared as they were sent, with
// nothing cleaned: one that is written in another way is not there.
func routeOf(r *http.Request) map[string]*adminapi.Call {
	path := r.URL.EscapedPath()
	if name, found := strings.CutPrefix(path, adminapi.PathMarks+"/"); found && isMarkName(name) {
		r.SetPathValue("name", name)
		path = adminapi.PathMark
	} else if strings.Contains(path, "{") {
		return nil
	}
	return routes[path]
}

func isMarkName(name string) bool {
	if name == "" || len(name) > adminapi.MaxMarkName || name[0] < 'a' || name[0] > 'z' {
		return false
	}
	return !strings.ContainsFunc(name, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' })
}

func (h *Handler) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	begin := h.o.Now()
	r := &request{Request: req, w: w, caller: access.Caller{Name: localCaller(req.Context()), Role: adminapi.RoleWrite, By: "unix socket"}}
	id, result := h.answer(r)
	status := http.StatusOK
	if !result.written {
		status = h.write(w, req, result)
	}
	h.o.Metrics.calls.WithLabelValues(id, strconv.Itoa(status)).Inc()
	var p *adminapi.Problem
	refused := errors.As(result.err, &p) && slices.Contains([]adminapi.Kind{adminapi.Unauthorized, adminapi.Forbidden, adminapi.TooMany}, p.Kind())
	if refused || req.Method != http.MethodGet && req.Method != http.MethodHead {
		h.auditLine(r, p, status, h.o.Now().Sub(begin))
	}
}

// answer makes the call. Who may not call learns nothing of what there is.
func (h *Handler) answer(r *request) (id string, _ answer) {
	if h.o.Gate != nil {
		caller, refusal := h.o.Gate.Admit(r.Request)
		if refusal != nil {
			return "refused", h.refuse(r, refusal)
		}
		r.caller = caller
	}
	calls := routeOf(r.Request)
	if calls == nil {
		return "unknown", answer{err: adminapi.NewProblem(adminapi.NotFound, "%q is not a path of this API; the paths are %s", clip(r.URL.Path), strings.Join(slices.Sorted(maps.Keys(routes)), ", "))}
	}
	call := calls[r.Method]
	if call == nil {
		allow := strings.Join(slices.Sorted(maps.Keys(calls)), ", ")
		r.w.Header().Set("Allow", allow)
		return "unknown", answer{err: adminapi.NewProblem(adminapi.Method, "%s is not for %s; use %s", r.URL.Path, clip(r.Method), allow)}
	}
	if !r.caller.Role.Allows(call.Role()) {
		h.refused(r, "the role "+string(r.caller.Role))
		return "refused", answer{err: adminapi.NewProblem(adminapi.Forbidden, "%s has the role %s, and %s %s needs the role %s; use the credentials of one who may", r.caller.Name, r.caller.Role, call.Method, call.Path, call.Role())}
	}
	r.Body = http.MaxBytesReader(r.w, r.Body, maxBody)
	return call.ID, handlers[call.ID](h, r)
}

// refuse answers one who was not let in.
func (h *Handler) refuse(r *request, why *access.Refusal) answer {
	r.caller = access.Caller{}
	h.refused(r, why.Why)
	if why.Guess {
		pause(r.Context(), guessDelay)
	}
	if why.Wait > 0 {
		r.w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(why.Wait.Seconds()))))
	}
	return answer{err: why.Problem}
}

func (h *Handler) refused(r *request, why string) {
	r.note(slog.String("because", why))
	if h.refusals.allow(h.o.Now()) {
		h.event(adminapi.EventAccess, "refused a call from "+r.RemoteAddr+" with "+why)
	}
}

func (h *Handler) event(kind adminapi.EventKind, text string) {
	if err := h.o.Events.Add(kind, text); err != nil {
		h.o.Log.Error("events are in memory only", "cause", err)
	}
}

// auditLine records an attempt to change something, or to get in, and how it
// went.
func (h *Handler) auditLine(r *request, p *adminapi.Problem, status int, took time.Duration) {
	from := r.RemoteAddr
	if from == "" || from == "@" {
		from = "unix socket"
	}
	caller := "nobody"
	if r.caller != (access.Caller{}) {
		caller = r.caller.String()
	}
	attrs := []slog.Attr{slog.String("caller", caller), slog.String("from", from), slog.String("method", clip(r.Method)), slog.String("path", clip(r.URL.Path)), slog.Int("status", status), slog.Duration("took", took)}
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		attrs = append(attrs, slog.String("certificate", r.TLS.PeerCertificates[0].Subject.String()))
	}
	attrs = append(attrs, r.audit...)
	if p != nil {
		attrs = append(attrs, slog.String("problem", string(p.Kind())))
	}
	h.o.Log.LogAttrs(context.WithoutCancel(r.Context()), slog.LevelInfo, "audit", attrs...)
}

// write sends the answer and returns its status.
func (h *Handler) write(w http.ResponseWriter, req *http.Request, r answer) int {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
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
	if call := routeOf(req)[req.Method]; call != nil && call.ETag {
		etag := tag(r.etag)
		w.Header().Set("ETag", etag)
		if req.Method == http.MethodGet && req.Header.Get("If-None-Match") == etag {
			w.WriteHeader(http.StatusNotModified)
			return http.StatusNotModified
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	_ = json.NewEncoder(w).Encode(r.body)
	return http.StatusOK
}

func tag(n uint64) string { return `"` + strconv.FormatUint(n, 10) + `"` }

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
		p := adminapi.NewProblem(adminapi.InvalidConfig, "%d settings cannot be used; correct them and send the document again", len(invalid.Problems))
		if len(invalid.Problems) == 1 {
			p.Detail = "a setting cannot be used; correct it and send the document again"
		}
		p.Problems = invalid.Problems
		return p
	case errors.As(err, &move):
		return adminapi.NewProblem(adminapi.IllegalMove, "%s", move.Text)
	}
	return adminapi.NewProblem(adminapi.Internal, "%v; look at the agent's log", err)
}

// pause waits, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
