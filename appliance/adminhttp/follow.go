package adminhttp

import (
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
)

const (
	// maxFollowers bounds the answers without an end.
	maxFollowers = 16
	// followAlive is how often a follower to whom nothing has happened gets an empty
	// line, so that one that is gone is noticed.
	followAlive = 15 * time.Second
	// followWrite bounds each write to a follower.
	followWrite = 10 * time.Second
)

func (h *Handler) readEvents(r *request) answer {
	after, p := number(r, "after")
	if p != nil {
		return answer{err: p}
	}
	follows, p := choice(r, "follow", "true", "false")
	switch {
	case p != nil:
		return answer{err: p}
	case follows == "true":
		return h.follow(r, func() (lines []any, more <-chan struct{}) {
			page, more := h.o.Events.After(after)
			for _, e := range page.Events {
				lines, after = append(lines, e), e.Seq
			}
			return lines, more
		})
	}
	page, _ := h.o.Events.After(after)
	return answer{body: page}
}

func (h *Handler) readLogs(r *request) answer {
	after, p := number(r, "after")
	if p != nil {
		return answer{err: p}
	}
	tail, p := number(r, "tail")
	if p != nil {
		return answer{err: p}
	}
	source, p := choice(r, "source", adminapi.SourceAgent, adminapi.SourceProxy)
	if p != nil {
		return answer{err: p}
	}
	follows, p := choice(r, "follow", "true", "false")
	if p != nil {
		return answer{err: p}
	}
	next := func() (page adminapi.Logs, more <-chan struct{}) {
		all, more := h.o.Logs.After(after)
		page = adminapi.Logs{Oldest: all.Oldest, Lines: []adminapi.LogLine{}}
		for _, line := range all.Lines {
			after = line.Seq
			if strings.HasPrefix(line.Source, source) {
				page.Lines = append(page.Lines, line)
			}
		}
		if n := len(page.Lines); tail > 0 && uint64(n) > tail {
			page.Lines = page.Lines[n-int(tail):]
		}
		tail = 0 // of the first page only
		return page, more
	}
	if follows == "true" {
		return h.follow(r, func() (lines []any, more <-chan struct{}) {
			page, more := next()
			for _, line := range page.Lines {
				lines = append(lines, line)
			}
			return lines, more
		})
	}
	page, _ := next()
	return answer{body: page}
}

// follow writes what next returns, one document to a line, and goes on with what
// comes until the caller leaves or the agent ends.
func (h *Handler) follow(r *request, next func() (lines []any, more <-chan struct{})) answer {
	select {
	case h.followers <- struct{}{}:
		defer func() { <-h.followers }()
	default:
		return answer{err: adminapi.NewProblem(adminapi.TooMany, "%d callers follow already; end one, or read without follow", maxFollowers)}
	}
	w, control := r.w, http.NewResponseController(r.w)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Content-Type", adminapi.MediaLines)
	w.WriteHeader(http.StatusOK)
	out := json.NewEncoder(w)
	alive := time.NewTicker(followAlive)
	defer alive.Stop()
	for {
		lines, more := next()
		// The deadline of ordinary answers is pushed on with each write.
		_ = control.SetWriteDeadline(time.Now().Add(followWrite + followAlive))
		for _, line := range lines {
			if out.Encode(line) != nil {
				return answer{written: true}
			}
		}
		if control.Flush() != nil {
			return answer{written: true}
		}
		select {
		case <-more:
		case <-alive.C:
			if _, err := w.Write([]byte("\n")); err != nil {
				return answer{written: true}
			}
		case <-r.Context().Done():
			return answer{written: true}
		case <-h.o.Agent.Stopped():
			return answer{written: true}
		}
	}
}
