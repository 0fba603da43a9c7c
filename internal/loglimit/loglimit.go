// Package loglimit keeps a log readable while something goes wrong over and over:
// a node that cannot be reached, a client that comes again and again.
//
// Floor 0: a leaf. A handler may be used from any goroutine; it starts none.
package loglimit

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Of one message, a burst is logged as it comes, and then one line in each interval.
const (
	burst    = 10
	interval = time.Second
)

// Handler passes lines on to another handler, but few of the same message. The
// next that is passed on tells how many were not, as others_since.
type Handler struct {
	next slog.Handler
	seen *messages
}

// messages are constants in the code, so that there are few.
type messages struct {
	mu  sync.Mutex
	all map[string]*message
}

type message struct {
	limiter *rate.Limiter
	skipped int
}

// New limits what goes to next.
func New(next slog.Handler) *Handler {
	return &Handler{next: next, seen: &messages{all: make(map[string]*message)}}
}

// Enabled implements slog.Handler.
func (h *Handler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.next.Enabled(ctx, level)
}

// Handle implements slog.Handler.
func (h *Handler) Handle(ctx context.Context, r slog.Record) error {
	skipped, pass := h.seen.count(r.Message)
	if !pass {
		return nil
	}
	if skipped > 0 {
		r = r.Clone()
		r.AddAttrs(slog.Int("others_since", skipped))
	}
	return h.next.Handle(ctx, r)
}

func (m *messages) count(text string) (skipped int, pass bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	one := m.all[text]
	if one == nil {
		one = &message{limiter: rate.NewLimiter(rate.Every(interval), burst)}
		m.all[text] = one
	}
	if !one.limiter.Allow() {
		one.skipped++
		return 0, false
	}
	skipped, one.skipped = one.skipped, 0
	return skipped, true
}

// WithAttrs implements slog.Handler. The limits are shared.
func (h *Handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &Handler{next: h.next.WithAttrs(attrs), seen: h.seen}
}

// WithGroup implements slog.Handler. The limits are shared.
func (h *Handler) WithGroup(name string) slog.Handler {
	return &Handler{next: h.next.WithGroup(name), seen: h.seen}
}
