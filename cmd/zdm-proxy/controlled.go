package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/internal/buildinfo"
	"github.com/zdmproject/terraform-provider-zdm/proxy"
	"github.com/zdmproject/terraform-provider-zdm/proxy/config"
	"github.com/zdmproject/terraform-provider-zdm/proxy/control"
	"github.com/zdmproject/terraform-provider-zdm/proxy/session"
)

// maxControlBody bounds what the agent may send: a configuration is a few
// kilobytes.
const maxControlBody = 1 << 20

// controlled is a proxy process under an agent. It takes one configuration in
// its life, apart from hot settings, and everything else over its unix socket.
type controlled struct {
	log  *logger
	life context.Context
	end  context.CancelFunc
	wg   sync.WaitGroup // what the process runs, besides the control server

	// Guarded by mu. Calls that change something hold it throughout, so that
	// they come one after the other.
	mu         sync.Mutex
	state      control.State
	generation uint64
	values     map[string]string // that cfg was made of
	cfg        *config.Config
	srv        *proxy.Server
	health     *health
	listeners  []ownListener
}

// ownListener is a listening socket with the copy that can be handed over.
type ownListener struct {
	purpose string
	net.Listener
}

// serveControlled waits on the socket for the agent, until it says drain or ctx
// ends (which drains too).
func serveControlled(ctx context.Context, socket string) error {
	if err := removeStale(socket); err != nil {
		return err
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return fmt.Errorf("listen for the agent: %w", err)
	}
	if err := os.Chmod(socket, 0o600); err != nil {
		return fmt.Errorf("protect the control socket: %w", err)
	}
	p := &controlled{log: newLogger(os.Stderr, &config.Config{}), state: control.Idle}
	p.life, p.end = context.WithCancel(context.WithoutCancel(ctx))
	defer p.end()
	p.wg.Go(func() { onHangUp(p.life, p.toggleLog) })
	server := &http.Server{Handler: p.routes(), ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { p.drain(control.Drain{}) })
	defer stop()
	closed := context.AfterFunc(p.life, func() { _ = server.Close() })
	defer closed()
	err = server.Serve(l)
	p.end()
	p.wg.Wait()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("control socket: %w", err)
}

// removeStale removes the socket of a process that is gone.
func removeStale(socket string) error {
	if _, err := os.Lstat(socket); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if c, err := net.DialTimeout("unix", socket, time.Second); err == nil {
		_ = c.Close()
		return fmt.Errorf("control socket %s is in use by another process; give another -control", socket)
	}
	return os.Remove(socket)
}

func (p *controlled) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+control.PathStatus, func(w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, p.status()) })
	mux.HandleFunc("GET "+control.PathMetrics, p.metrics)
	mux.HandleFunc("PUT "+control.PathConfig, take(p.configure))
	mux.HandleFunc("POST "+control.PathPhasePrepare, take(p.prepare))
	mux.HandleFunc("POST "+control.PathPhase, take(p.setPhase))
	mux.HandleFunc("POST "+control.PathServe, take(p.open))
	mux.HandleFunc("POST "+control.PathDrain, take(func(_ context.Context, d control.Drain) (int, error) {
		p.drain(d)
		return http.StatusOK, nil
	}))
	mux.HandleFunc("POST "+control.PathSessions, p.sessions)
	mux.HandleFunc("POST "+control.PathHandover, p.handover)
	return p.withStatus(mux)
}

// withStatus lets take find the process that it answers for.
func (p *controlled) withStatus(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), processKey{}, p)))
	})
}

type processKey struct{}

// take reads a JSON body, calls f, and answers with the process's status, or
// with the error under the code that f gives.
func take[T any](f func(context.Context, T) (int, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var body T
		d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxControlBody))
		d.DisallowUnknownFields()
		if err := d.Decode(&body); err != nil {
			reply(w, http.StatusBadRequest, control.Error{Text: "body: " + err.Error()})
			return
		}
		code, err := f(r.Context(), body)
		if err != nil {
			e := control.Error{Text: err.Error()}
			var bad *config.Error
			if errors.As(err, &bad) {
				e = control.Error{Text: "the configuration has problems", Problems: bad.Problems}
			}
			reply(w, code, e)
			return
		}
		reply(w, code, r.Context().Value(processKey{}).(*controlled).status())
	}
}

func reply(w http.ResponseWriter, code int, body any) {
	if code == http.StatusNoContent {
		w.WriteHeader(code)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body) // the agent may be gone
}

func (p *controlled) status() control.Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.statusLocked()
}

func (p *controlled) statusLocked() control.Status {
	if p.srv == nil {
		return control.Status{PID: os.Getpid(), Version: buildinfo.Version(), State: p.state, NotReady: []string{"no configuration yet"}}
	}
	st := p.srv.Status()
	if p.state == control.Connecting && p.bothUp() {
		p.state = control.Ready
	}
	st.State, st.Generation = p.state, p.generation
	for _, l := range p.listeners {
		if l.purpose == "cql" {
			st.ListenAddress = l.Addr().String()
		}
	}
	return st
}

// bothUp: what the next phase may need is there.
func (p *controlled) bothUp() bool { return len(p.srv.NotReady()) == 0 }

func (p *controlled) configure(_ context.Context, c control.Config) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	values := maps.Clone(c.Settings)
	maps.Copy(values, c.Secrets)
	if p.srv != nil && !config.OnlyHot(p.values, values) {
		return http.StatusConflict, fmt.Errorf("this process runs generation %d, and cannot take this change while it does; a new process can", p.generation)
	}
	cfg, err := parse(values)
	if err != nil {
		return http.StatusUnprocessableEntity, err
	}
	if p.srv != nil {
		p.log.setUsual(cfg.LogLevel)
		p.srv.SetMaxClients(cfg.Listen.MaxClients)
		p.cfg, p.values, p.generation = cfg, values, c.Generation
		p.log.Info("took settings", "generation", c.Generation)
		return http.StatusOK, nil
	}
	log := newLogger(os.Stderr, cfg)
	srv, err := proxy.New(cfg, log.Logger)
	if err != nil {
		return http.StatusUnprocessableEntity, err
	}
	for _, w := range cfg.Warnings() {
		log.Warn("configuration", "warning", w)
	}
	log.Info("starting", "version", buildinfo.Version(), "pid", os.Getpid(), "generation", c.Generation, "config", cfg)
	p.log, p.values, p.cfg, p.srv, p.generation, p.state = log, values, cfg, srv, c.Generation, control.Connecting
	p.health = newHealth(srv, cfg)
	p.wg.Go(func() { _ = srv.Serve(p.life) }) // it ends without an error when life does
	return http.StatusOK, nil
}

func (p *controlled) toggleLog() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.log.toggle()
}

// metrics are there for the agent whatever the settings say of the metrics port.
func (p *controlled) metrics(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	h := p.health
	p.mu.Unlock()
	if h == nil {
		reply(w, http.StatusConflict, control.Error{Text: "no configuration yet; send one first"})
		return
	}
	h.all.ServeHTTP(w, r)
}

func (p *controlled) server() (*proxy.Server, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.srv == nil {
		return nil, errors.New("no configuration yet; send one first")
	}
	return p.srv, nil
}

// prepare does not hold the lock: a proof takes seconds, and changes nothing.
func (p *controlled) prepare(ctx context.Context, want control.Phase) (int, error) {
	srv, err := p.server()
	if err != nil {
		return http.StatusConflict, err
	}
	if want.Phase == 0 {
		return http.StatusBadRequest, errors.New("phase: missing; give the one to prepare")
	}
	ctx, cancel := context.WithTimeout(ctx, proofTimeout)
	defer cancel()
	if err := srv.Prove(ctx, want.Phase); err != nil {
		return http.StatusConflict, err
	}
	return http.StatusNoContent, nil
}

func (p *controlled) setPhase(_ context.Context, want control.Phase) (int, error) {
	srv, err := p.server()
	if err != nil {
		return http.StatusConflict, err
	}
	if want.Phase == 0 {
		return http.StatusBadRequest, errors.New("phase: missing; give the one to serve")
	}
	if err := srv.SetPhase(want.Phase, want.Epoch); err != nil {
		return http.StatusConflict, err
	}
	return http.StatusOK, nil
}

// open opens the ports: those of another process, or new ones.
func (p *controlled) open(ctx context.Context, how control.Serve) (int, error) {
	srv, err := p.server()
	if err != nil {
		return http.StatusConflict, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state == control.Serving {
		return http.StatusOK, nil
	}
	if ph, _ := srv.Phase(); ph == 0 {
		return http.StatusConflict, errors.New("no phase yet; send one first")
	}
	var taken []ownListener
	if how.TakeOver != "" {
		if taken, err = takeOver(ctx, how.TakeOver); err != nil {
			return http.StatusBadGateway, fmt.Errorf("take over the ports from %s: %w", how.TakeOver, err)
		}
	}
	cql, web, err := p.chooseListeners(taken)
	if err != nil {
		return http.StatusConflict, err
	}
	if err := srv.Accept(cql.Listener); err != nil {
		return http.StatusConflict, err
	}
	p.listeners = []ownListener{cql}
	p.health.started.Store(true)
	if web.Listener != nil {
		p.listeners = append(p.listeners, web)
		p.wg.Go(func() { p.health.serve(p.life, web.Listener, p.log.Logger) })
	}
	p.state = control.Serving
	p.log.Info("serving", "address", cql.Addr(), "taken_over", how.TakeOver != "")
	return http.StatusOK, nil
}

// chooseListeners takes what was handed over where the address is still the
// wanted one, and binds the rest.
func (p *controlled) chooseListeners(taken []ownListener) (cql, web ownListener, err error) {
	for _, l := range taken {
		switch {
		case l.purpose == "cql" && sameAddress(l.Addr(), p.cfg.Listen.Address, p.cfg.Listen.Port):
			cql = l
		case l.purpose == "http" && sameAddress(l.Addr(), p.cfg.Metrics.Address, p.cfg.Metrics.Port):
			web = l
		default:
			_ = l.Close()
		}
	}
	if cql.Listener == nil {
		l, err := listenCQL(p.cfg)
		if err != nil {
			if web.Listener != nil {
				_ = web.Close()
			}
			return cql, web, err
		}
		cql = ownListener{"cql", l}
	}
	if web.Listener == nil {
		if l, err := p.health.listen(); err != nil {
			p.log.Error("metrics and health are not served; free the port, or set metrics_port", "cause", err)
		} else {
			web = ownListener{"http", l}
		}
	}
	return cql, web, nil
}

// sameAddress reports whether a socket is bound where the settings want it.
func sameAddress(bound net.Addr, host string, port int) bool {
	want, err := net.ResolveTCPAddr("tcp", net.JoinHostPort(host, fmt.Sprint(port)))
	have, ok := bound.(*net.TCPAddr)
	return err == nil && ok && have.Port == want.Port && (have.IP.Equal(want.IP) || have.IP.IsUnspecified() && len(want.IP) == 0)
}

// drain ends the process in the background: no new clients, answers for what is
// in flight, clients moved or closed, then exit.
func (p *controlled) drain(how control.Drain) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state == control.Draining {
		return
	}
	p.state = control.Draining
	if p.srv == nil {
		p.end()
		return
	}
	if how.Deadline <= 0 {
		how.Deadline = p.cfg.Listen.RequestTimeout + time.Second
		if how.Successor != "" {
			how.Deadline += control.WarmTimeout
		}
	}
	p.health.draining.Store(true)
	for _, l := range p.listeners {
		_ = l.Close() // only this process's copy, where it was handed over
	}
	srv := p.srv
	p.log.Info("draining", "clients", srv.Status().Clients, "at_most", how.Deadline.String(), "successor", how.Successor)
	p.wg.Go(func() {
		defer p.end()
		ctx, cancel := context.WithTimeout(p.life, how.Deadline)
		defer cancel()
		var move session.Move
		if how.Successor != "" {
			to, conn, err := moveTo(ctx, how.Successor)
			if err != nil {
				// It is a hand-over all the same: the port is served, and clients are
				// not told that it is not.
				move = func(control.Message, *net.TCPConn) error { return err }
			} else {
				move = to
				defer conn.Close()
			}
		}
		if err := srv.Drain(ctx, move); err != nil {
			p.log.Warn("drained in part", "cause", err)
			return
		}
		p.log.Info("drained")
	})
}
