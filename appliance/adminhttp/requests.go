package adminhttp

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strconv"
	"strings"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// maxBody bounds a request; a configuration is a few kilobytes.
const maxBody = 1 << 20

func (h *Handler) readStatus(r *request) answer { return answer{body: h.o.Agent.Status(r.Context())} }

func (h *Handler) readConfig(*request) answer { return configAnswer(h.o.Agent.Config(), nil) }

func (h *Handler) readPhase(*request) answer { return phaseAnswer(h.o.Agent.Phase(), nil) }

func (h *Handler) readMarks(*request) answer { return marksAnswer(h.o.Agent.Marks(), nil) }

func configAnswer(c adminapi.Config, err error) answer {
	return answer{body: c, etag: c.Generation, err: err}
}

func phaseAnswer(p adminapi.Phase, err error) answer {
	return answer{body: p, etag: p.Epoch, err: err}
}

func marksAnswer(m adminapi.Marks, err error) answer {
	return answer{body: m, etag: m.Revision, err: err}
}

func (h *Handler) putConfig(r *request) answer {
	var in adminapi.Config
	etag, p := decodeMatching(r, adminapi.PathConfig, &in)
	if p != nil {
		return answer{err: p}
	}
	r.note(slog.Uint64("if_match", etag), slog.String("cluster_id", clip(in.ClusterID)), slog.String("instance", clip(in.Instance)))
	dry, p := choice(r, "dry_run", "true", "false")
	if p != nil {
		return answer{err: p}
	}
	put := h.o.Agent.PutConfig
	if dry == "true" {
		r.note(slog.Bool("dry_run", true))
		put = h.o.Agent.CheckConfig
	}
	c, err := put(r.Context(), in, etag)
	if err == nil {
		r.note(slog.Uint64("generation", c.Generation), slog.String("applied", string(c.Applied)))
	}
	return configAnswer(c, err)
}

// Bounds of a lease, in seconds; 0 is the agent's default.
const maxLease = 600

func (h *Handler) preparePhase(r *request) answer {
	var in adminapi.PrepareRequest
	etag, p := decodeMatching(r, adminapi.PathPhase, &in)
	if p != nil {
		return answer{err: p}
	}
	r.note(slog.Uint64("if_match", etag), slog.String("phase", in.Phase.String()), slog.String("force_reason", clip(in.ForceReason)))
	switch {
	case in.Phase == phase.None:
		return answer{err: adminapi.NewProblem(adminapi.Body, "phase is missing; give one of %s", strings.Join(phase.Names(), ", "))}
	case in.LeaseSeconds < 0 || in.LeaseSeconds > maxLease:
		return answer{err: adminapi.NewProblem(adminapi.Body, "lease_seconds: %d is not within 0 and %d; 0 is the default", in.LeaseSeconds, maxLease)}
	}
	if p := checkReason("force_reason", &in.ForceReason); p != nil {
		return answer{err: p}
	}
	return phaseAnswer(h.o.Agent.Prepare(r.Context(), in, etag))
}

func (h *Handler) commitPhase(r *request) answer {
	var in adminapi.CommitRequest
	if p := decode(r, &in); p != nil {
		return answer{err: p}
	}
	ph, err := h.o.Agent.Commit(r.Context(), in.Token)
	if err == nil {
		r.note(slog.String("phase", ph.Phase.String()), slog.Uint64("epoch", ph.Epoch))
	}
	return phaseAnswer(ph, err)
}

func (h *Handler) abortPhase(r *request) answer {
	var in adminapi.AbortRequest
	if p := decode(r, &in); p != nil {
		return answer{err: p}
	}
	return phaseAnswer(h.o.Agent.Abort(r.Context(), in.Token))
}

func (h *Handler) restart(r *request) answer {
	var in adminapi.RestartRequest
	if p := decodeReason(r, &in, &in.Reason); p != nil {
		return answer{err: p}
	}
	st, err := h.o.Agent.Restart(r.Context(), in)
	return h.statusAnswer(r, st, err)
}

func (h *Handler) drain(r *request) answer {
	var in adminapi.DrainRequest
	if p := decodeReason(r, &in, &in.Reason); p != nil {
		return answer{err: p}
	}
	st, err := h.o.Agent.Drain(r.Context(), in, r.caller.Name)
	return h.statusAnswer(r, st, err)
}

func (h *Handler) resume(r *request) answer {
	var in adminapi.ResumeRequest
	if p := decodeReason(r, &in, &in.Reason); p != nil {
		return answer{err: p}
	}
	st, err := h.o.Agent.Resume(r.Context(), in)
	return h.statusAnswer(r, st, err)
}

func (h *Handler) statusAnswer(r *request, st adminapi.Status, err error) answer {
	if err == nil {
		r.note(slog.Uint64("generation", st.Generation))
	}
	return answer{body: st, err: err}
}

func (h *Handler) readMark(r *request) answer {
	name := r.PathValue("name")
	for _, m := range h.o.Agent.Marks().Marks {
		if m.Name == name {
			return answer{body: m, etag: m.Revision}
		}
	}
	return answer{err: adminapi.NewProblem(adminapi.NotFound, "there is no mark %s; set it with PUT and If-Match %s", name, tag(0))}
}

func (h *Handler) putMark(r *request) answer {
	name := r.PathValue("name")
	var in adminapi.MarkRequest
	etag, p := decodeMatching(r, adminapi.PathMarks+"/"+name, &in)
	if p != nil {
		return answer{err: p}
	}
	r.note(slog.Uint64("if_match", etag), slog.String("author", clip(in.Author)))
	if p := checkReason("reason", &in.Reason); p != nil {
		return answer{err: p}
	}
	switch {
	case in.Reason == "":
		return answer{err: adminapi.NewProblem(adminapi.Body, "reason is missing; say by what the fact is known")}
	case len(in.Author) > adminapi.MaxMarkAuthor || strings.ContainsFunc(in.Author, isControl):
		return answer{err: adminapi.NewProblem(adminapi.Body, "author: is longer than %d bytes or has control characters; give a plain name", adminapi.MaxMarkAuthor)}
	}
	m, err := h.o.Agent.PutMark(r.Context(), name, in, etag, r.caller.Name)
	return answer{body: m, etag: m.Revision, err: err}
}

func (h *Handler) deleteMark(r *request) answer {
	name := r.PathValue("name")
	etag, p := ifMatch(r, adminapi.PathMarks+"/"+name)
	if p != nil {
		return answer{err: p}
	}
	r.note(slog.Uint64("if_match", etag))
	return marksAnswer(h.o.Agent.DeleteMark(r.Context(), name, etag))
}

func (h *Handler) readOpenAPI(*request) answer {
	return answer{body: json.RawMessage(adminapi.OpenAPI)}
}

// ifMatch reads the header that a change needs.
func ifMatch(r *request, path string) (uint64, *adminapi.Problem) {
	text := r.Header.Get("If-Match")
	if text == "" {
		return 0, adminapi.NewProblem(adminapi.Precondition, "a change needs If-Match with the ETag of %s; read that first", path)
	}
	n, err := strconv.ParseUint(strings.Trim(text, `"`), 10, 64)
	if err != nil {
		return 0, adminapi.NewProblem(adminapi.Precondition, "If-Match is not one ETag of this API; use that of %s", path)
	}
	return n, nil
}

// decodeMatching is ifMatch and decode.
func decodeMatching(r *request, path string, into any) (uint64, *adminapi.Problem) {
	etag, p := ifMatch(r, path)
	if p != nil {
		return 0, p
	}
	return etag, decode(r, into)
}

// decodeReason is decode and checkReason, and notes the reason.
func decodeReason(r *request, into any, reason *string) *adminapi.Problem {
	if p := decode(r, into); p != nil {
		return p
	}
	r.note(slog.String("reason", clip(*reason)))
	return checkReason("reason", reason)
}

// checkReason trims a free text and bounds it.
func checkReason(field string, text *string) *adminapi.Problem {
	*text = strings.TrimSpace(*text)
	if len(*text) > adminapi.MaxReason || strings.ContainsFunc(*text, isControl) {
		return adminapi.NewProblem(adminapi.Body, "%s: is longer than %d bytes or has control characters; say it shorter, in one line", field, adminapi.MaxReason)
	}
	return nil
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

// decode reads exactly one JSON document with known fields only.
func decode(r *request, into any) *adminapi.Problem {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	err := d.Decode(into)
	if err == nil {
		if _, more := d.Token(); errors.Is(more, io.EOF) {
			return nil
		}
		err = errors.New("there is more after the document")
	}
	var long *http.MaxBytesError
	switch {
	case errors.As(err, &long):
		p := adminapi.NewProblem(adminapi.Body, "the body is longer than %d bytes; send a smaller document", long.Limit)
		p.Status = http.StatusRequestEntityTooLarge
		return p
	case errors.Is(err, os.ErrDeadlineExceeded):
		p := adminapi.NewProblem(adminapi.Body, "the body did not come in time; send it faster")
		p.Status = http.StatusRequestTimeout
		return p
	case err == io.EOF:
		err = errors.New("it is empty")
	}
	return adminapi.NewProblem(adminapi.Body, "the body is not the JSON document of this call: %v; correct it, and send it again", err)
}

// number reads a whole number of the query; 0 without.
func number(r *request, name string) (uint64, *adminapi.Problem) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, adminapi.NewProblem(adminapi.Body, "%s=%s is not a whole number; give one, such as the seq of what you have last", name, strconv.Quote(clip(text)))
	}
	return n, nil
}

// choice reads one of the values, or "" without.
func choice(r *request, name string, values ...string) (string, *adminapi.Problem) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return "", nil
	}
	for _, v := range values {
		if text == v {
			return v, nil
		}
	}
	return "", adminapi.NewProblem(adminapi.Body, "%s=%s is not one of %s", name, strconv.Quote(clip(text)), strings.Join(values, ", "))
}

// clip bounds what a caller has written before it is logged.
func clip(text string) string {
	if len(text) > adminapi.MaxReason {
		return strings.ToValidUTF8(text[:adminapi.MaxReason], "") + fmt.Sprintf("... (%d bytes)", len(text))
	}
	return text
}
