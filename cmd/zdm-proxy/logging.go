package main

import (
	"context"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/zdmproject/terraform-provider-zdm/proxy/config"
)

// logger writes what is as severe as its level, which may change at any time.
type logger struct {
	*slog.Logger
	level *slog.LevelVar
	usual slog.Level // the configured one
}

func newLogger(w io.Writer, cfg *config.Config) *logger {
	l := &logger{level: new(slog.LevelVar), usual: cfg.LogLevel}
	l.level.Set(cfg.LogLevel)
	o := &slog.HandlerOptions{Level: l.level, ReplaceAttr: writeAddresses}
	if cfg.LogFormat == config.LogJSON {
		l.Logger = slog.New(slog.NewJSONHandler(w, o))
	} else {
		l.Logger = slog.New(slog.NewTextHandler(w, o))
	}
	return l
}

// setUsual changes the level, also from what toggle has made of it.
func (l *logger) setUsual(level slog.Level) {
	l.usual = level
	l.level.Set(level)
}

// toggle goes to DEBUG, or back to the usual level.
func (l *logger) toggle() {
	to := slog.LevelDebug
	if l.level.Level() != l.usual {
		to = l.usual
	}
	l.level.Set(to)
	// At the highest level of all, so that it is seen whatever the level is.
	l.Log(context.Background(), max(slog.LevelError, l.usual), "SIGHUP: the log level is another one", "level", to)
}

// onHangUp calls f for each SIGHUP until ctx ends. Without it the signal would end
// the process.
func onHangUp(ctx context.Context, f func()) {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	for {
		select {
		case <-ctx.Done():
			return
		case <-hup:
			f()
		}
	}
}

// writeAddresses has JSON show an address as text does, 127.0.0.1:9042, and not
// as an object of its parts.
func writeAddresses(_ []string, a slog.Attr) slog.Attr {
	if address, ok := a.Value.Any().(net.Addr); ok {
		a.Value = slog.StringValue(address.String())
	}
	return a
}
