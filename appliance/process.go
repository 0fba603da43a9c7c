package appliance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/appliance/store"
	"github.com/zdmproject/terraform-provider-zdm/appliance/supervise"
	"github.com/zdmproject/terraform-provider-zdm/proxy/control"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// Bounds of the calls to a proxy process. All but the proof are answered out of
// memory; a proof is a connection, a login and a read of the schema.
const (
	callTimeout  = 5 * time.Second
	proofTimeout = 20 * time.Second
	greetTimeout = 10 * time.Second
	pollInterval = 20 * time.Millisecond
	maxStatus    = 1 << 20
	maxMetrics   = 16 << 20
	// endNotice is how much later than its connections the end of a process may
	// be noticed.
	endNotice = 250 * time.Millisecond
)

// proxy is one proxy process and the client of its control socket.
type proxy struct {
	supervise.Process
	http    *http.Client
	started time.Time

	// Owned by the agent's owner: what the process is known to do.
	generation uint64
	epoch      uint64
	serving    bool
	// successor is the control socket of the process that its clients go to when
	// it drains; "" while there is none.
	successor string
}

func newProxy(p supervise.Process, started time.Time) *proxy {
	var dialer net.Dialer
	return &proxy{Process: p, started: started, http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", p.Socket())
		},
		// No connection outlives a call: a draining process need not wait for it.
		DisableKeepAlives: true,
	}}}
}

func (p *proxy) String() string { return fmt.Sprintf("%s (pid %d)", p.Name(), p.PID()) }

// call makes one call; out may be nil. An answer that is not a success is a
// *control.Error.
func (p *proxy) call(ctx context.Context, bound time.Duration, method, path string, in, out any) error {
	answer, _, err := p.exchange(ctx, bound, method, path, in, maxStatus)
	if err != nil || out == nil {
		return err
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("call %s of %s: %w", path, p, err)
	}
	return nil
}

// exchange is call for an answer of any kind, up to so many bytes, which comes
// with its media type.
func (p *proxy) exchange(ctx context.Context, bound time.Duration, method, path string, in any, most int64) (answer []byte, media string, err error) {
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, "", err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://proxy"+path, body)
	if err != nil {
		return nil, "", err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := p.http.Do(req)
	if err != nil {
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() && ctx.Err() != nil {
			return nil, "", fmt.Errorf("%s does not answer its control socket: waited %s for %s: %w", p, bound, path, context.Cause(ctx))
		}
		return nil, "", fmt.Errorf("call %s of %s: %w", path, p, err)
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(resp.Body, most))
	if err != nil {
		return nil, "", fmt.Errorf("call %s of %s: %w", path, p, err)
	}
	if resp.StatusCode > 299 {
		refused := &control.Error{}
		if json.Unmarshal(answer, refused) != nil || refused.Text == "" {
			refused.Text = fmt.Sprintf("%s answered %s to %s", p, resp.Status, path)
		}
		return nil, "", refused
	}
	return answer, resp.Header.Get("Content-Type"), nil
}

func (p *proxy) status(ctx context.Context, bound time.Duration) (*control.Status, error) {
	st := &control.Status{}
	return st, p.call(ctx, bound, http.MethodGet, control.PathStatus, nil, st)
}

func (p *proxy) metrics(ctx context.Context) (text []byte, media string, err error) {
	return p.exchange(ctx, callTimeout, http.MethodGet, control.PathMetrics, nil, maxMetrics)
}

func (p *proxy) configure(ctx context.Context, doc *store.Document) error {
	conf := control.Config{Generation: doc.Generation, Settings: doc.Settings, Secrets: map[string]string{}}
	for name, value := range doc.Secrets {
		conf.Secrets[name] = value.Reveal()
	}
	return p.call(ctx, 2*callTimeout, http.MethodPut, control.PathConfig, conf, nil)
}

func (p *proxy) setPhase(ctx context.Context, ph phase.Phase, epoch uint64) error {
	return p.call(ctx, callTimeout, http.MethodPost, control.PathPhase, control.Phase{Phase: ph, Epoch: epoch}, nil)
}

func (p *proxy) prove(ctx context.Context, ph phase.Phase, epoch uint64) error {
	return p.call(ctx, proofTimeout, http.MethodPost, control.PathPhasePrepare, control.Phase{Phase: ph, Epoch: epoch}, nil)
}

func (p *proxy) serve(ctx context.Context, takeOver string) error {
	return p.call(ctx, 2*callTimeout, http.MethodPost, control.PathServe, control.Serve{TakeOver: takeOver}, nil)
}

// drain asks the process to drain and end within a time.
func (p *proxy) drain(ctx context.Context, within time.Duration) error {
	return p.call(ctx, callTimeout, http.MethodPost, control.PathDrain, control.Drain{Successor: p.successor, Deadline: within}, nil)
}

// goal is what a process is to run.
type goal struct {
	doc   *store.Document
	phase phase.Phase
	epoch uint64
	open  bool // the client port
}

// lift brings a process, wherever in its life it is, to where it may serve the
// goal: configured, in the phase, ready. It does not open the client port. It
// waits as long as ctx does; the error then says what is not ready.
func (p *proxy) lift(ctx context.Context, g goal) error {
	ctx, cancel := p.whileAlive(ctx)
	defer cancel()
	err := p.liftAlive(ctx, g)
	var refused *control.Error
	if err == nil || errors.As(err, &refused) {
		return err
	}
	// A broken connection shows before the end of the process does.
	pause(ctx, endNotice)
	if ended(p) {
		return p.endedError()
	}
	return err
}

func (p *proxy) liftAlive(ctx context.Context, g goal) error {
	st, err := p.greet(ctx)
	if err != nil {
		return err
	}
	if st.State == control.Idle {
		if err := p.configure(ctx, g.doc); err != nil {
			return err
		}
	}
	// The phase decides which sides must be ready (in target_only Origin may be
	// gone), so it is given first; a process that wants to be ready before gets it
	// again after.
	inPhase := g.phase == phase.None || (st.Epoch == g.epoch && st.Phase == g.phase)
	if !inPhase {
		err := p.setPhase(ctx, g.phase, g.epoch)
		var refused *control.Error
		if err != nil && !errors.As(err, &refused) {
			return err
		}
		inPhase = err == nil
	}
	if err := p.awaitReady(ctx); err != nil || inPhase {
		return err
	}
	return p.setPhase(ctx, g.phase, g.epoch)
}

// greet waits for the control socket of a new process.
func (p *proxy) greet(ctx context.Context) (*control.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, greetTimeout)
	defer cancel()
	for {
		st, err := p.status(ctx, callTimeout)
		if err == nil {
			return st, nil
		}
		if !pause(ctx, pollInterval/4) {
			return nil, fmt.Errorf("%s has not opened its control socket in %s: %w", p, greetTimeout, err)
		}
	}
}

func (p *proxy) awaitReady(ctx context.Context) error {
	begin := time.Now()
	var reasons []string
	for {
		st, err := p.status(ctx, callTimeout)
		switch {
		case err == nil && st.Ready && (st.State == control.Ready || st.State == control.Serving):
			return nil
		case err == nil && st.State == control.Draining:
			return fmt.Errorf("%s is draining", p)
		case err == nil:
			reasons = st.NotReady
			if len(reasons) == 0 {
				reasons = []string{"it is " + string(st.State)}
			}
		case ctx.Err() == nil:
			reasons = []string{err.Error()}
		}
		if !pause(ctx, pollInterval) {
			return fmt.Errorf("%s is not ready after %s: %s", p, time.Since(begin).Round(100*time.Millisecond), strings.Join(reasons, "; "))
		}
	}
}

// whileAlive ends with the process too.
func (p *proxy) whileAlive(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := make(chan struct{})
	ended := make(chan struct{})
	// Ends with the returned cancel function, which awaits it.
	go func() {
		defer close(ended)
		select {
		case <-p.Done():
			cancel()
		case <-stop:
		}
	}()
	return ctx, func() {
		close(stop)
		<-ended
		cancel()
	}
}

func (p *proxy) endedError() error {
	text := fmt.Sprintf("%s ended: %s", p, p.Exit())
	if lines := p.Output(); len(lines) > 0 {
		text += "; its last line: " + lines[len(lines)-1]
	}
	return errors.New(text)
}

// pause waits; false means that ctx has ended.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
