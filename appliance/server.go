package appliance

import (
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/internal/secret"
)

// NewServer makes an HTTP server for Handler with time-outs for a hostile
// network; an answer may take as long as a change.
func (a *Agent) NewServer(token secret.String) *http.Server {
	return &http.Server{
		Handler:           a.Handler(token),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second,
		WriteTimeout:      30*time.Second + a.o.ReadyTimeout + handOverTimeout,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(a.log.Handler(), slog.LevelWarn),
	}
}

// limiter lets one thing through in a while. Safe for concurrent use.
type limiter struct {
	mu   sync.Mutex
	next time.Time
}

func (l *limiter) allow(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Before(l.next) {
		return false
	}
	l.next = now.Add(wrongTokenEvent)
	return true
}
