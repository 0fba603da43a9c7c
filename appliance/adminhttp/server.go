package adminhttp

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds of a server on a hostile network.
const (
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 15 * time.Second
	idleTimeout       = time.Minute
	maxHeader         = 16 << 10
)

// NewServer makes an HTTP server for the handler. An answer may take as long as a
// change.
func (h *Handler) NewServer() *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      readTimeout + h.o.Agent.LongestChange(),
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          log.New(serverLog{h.o.Log}, "", 0),
		ConnContext:       withPeer,
	}
}

// serverLog takes what net/http has to say. A TLS handshake that fails is an
// attempt to get in, and for the audit log.
type serverLog struct{ log *slog.Logger }

func (l serverLog) Write(b []byte) (int, error) {
	text := strings.TrimSpace(string(b))
	if rest, found := strings.CutPrefix(text, "http: TLS handshake error from "); found {
		from, why, _ := strings.Cut(rest, ": ")
		l.log.Info("audit", "caller", "nobody", "from", from, "because", why, "problem", "tls")
	} else {
		l.log.Warn("admin API", "cause", text)
	}
	return len(b), nil
}

type peerKey struct{}

// withPeer remembers who is at the other end of a unix socket.
func withPeer(ctx context.Context, conn net.Conn) context.Context {
	uc, ok := conn.(*net.UnixConn)
	if !ok {
		return ctx
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return ctx
	}
	var cred *unix.Ucred
	controlled := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if controlled != nil || err != nil {
		return ctx
	}
	return context.WithValue(ctx, peerKey{}, fmt.Sprintf("uid %d", cred.Uid))
}

// localCaller is the name of who calls over a unix socket.
func localCaller(ctx context.Context) string {
	if name, ok := ctx.Value(peerKey{}).(string); ok {
		return name
	}
	return "local"
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
	l.next = now.Add(refusalEvent)
	return true
}
