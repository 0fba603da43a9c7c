package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/internal/buildinfo"
	"github.com/zdmproject/terraform-provider-zdm/proxy"
	"github.com/zdmproject/terraform-provider-zdm/proxy/config"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// readyPoll is how often a starting proxy looks whether its clusters are up.
const readyPoll = 50 * time.Millisecond

// serveAlone runs a proxy without an agent until ctx ends, and then drains it.
// Clusters that cannot be reached are waited for, with the client port closed.
func serveAlone(ctx context.Context, cfg *config.Config, log *logger, file string) error {
	for _, w := range cfg.Warnings() {
		log.Warn("configuration", "warning", w)
	}
	log.Info("starting", "version", buildinfo.Version(), "pid", os.Getpid(), "config", cfg)
	srv, err := proxy.New(cfg, log.Logger)
	if err != nil {
		return err
	}
	h := newHealth(srv, cfg)
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	defer wg.Wait()
	defer end()
	wg.Go(func() { h.serve(life, nil, log.Logger) })
	wg.Go(func() { _ = srv.Serve(life) }) // it ends without an error when life does
	if err := srv.SetPhase(cfg.InitialPhase(), 0); err != nil {
		return err
	}
	wg.Go(func() {
		onHangUp(life, func() {
			if file == "" {
				log.toggle()
			} else {
				readAgain(life, srv, log, file)
			}
		})
	})
	if !waitReady(ctx, srv, log.Logger) {
		return nil
	}
	l, err := listenCQL(cfg)
	if err != nil {
		return err
	}
	if err := srv.Accept(l); err != nil {
		return err
	}
	h.started.Store(true)
	log.Info("serving", "address", l.Addr(), "phase", cfg.InitialPhase())
	<-ctx.Done()
	h.draining.Store(true)
	limit := cfg.Listen.RequestTimeout + time.Second
	log.Info("draining", "clients", srv.Status().Clients, "at_most", limit.String())
	deadline, cancel := context.WithTimeout(life, limit)
	defer cancel()
	if err := srv.Drain(deadline, nil); err != nil {
		return err
	}
	log.Info("drained")
	return nil
}

func listenCQL(cfg *config.Config) (net.Listener, error) {
	addr := net.JoinHostPort(cfg.Listen.Address, strconv.Itoa(cfg.Listen.Port))
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen for clients on %s: %w; free the port, or set proxy_listen_address and proxy_listen_port", addr, err)
	}
	return l, nil
}

// waitReady returns when the sides that the phase needs are up; false if ctx
// ended first.
func waitReady(ctx context.Context, srv *proxy.Server, log *slog.Logger) bool {
	tick := time.NewTicker(readyPoll)
	defer tick.Stop()
	told := time.Now()
	for {
		why := srv.NotReady()
		if len(why) == 0 {
			return true
		}
		if time.Since(told) > 10*time.Second {
			log.Warn("not ready; the client port stays closed", "why", why)
			told = time.Now()
		}
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
}

// readAgain takes phase and log level from the file. What else has changed there
// needs a restart, and that is said.
func readAgain(ctx context.Context, srv *proxy.Server, log *logger, file string) {
	cfg, err := load(file, nil)
	if err != nil {
		log.Error("SIGHUP: the file is not used", "cause", err)
		return
	}
	log.setUsual(cfg.LogLevel)
	if err := changePhase(ctx, srv, cfg.InitialPhase()); err != nil {
		log.Error("SIGHUP: the phase stays as it is", "cause", err)
		return
	}
	log.Info("SIGHUP: phase and log level were read again; other settings need a restart", "phase", cfg.InitialPhase(), "level", cfg.LogLevel)
}

// changePhase takes one step without an agent.
func changePhase(ctx context.Context, srv *proxy.Server, to phase.Phase) error {
	from, epoch := srv.Phase()
	if err := phase.CheckMove(from, to, false); err != nil {
		return err
	}
	proof, cancel := context.WithTimeout(ctx, proofTimeout)
	defer cancel()
	if err := srv.Prove(proof, to); err != nil {
		return err
	}
	return srv.SetPhase(to, epoch+1)
}

// proofTimeout bounds the proof that a phase can be served.
const proofTimeout = 20 * time.Second
