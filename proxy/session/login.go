package session

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
	"github.com/zdmproject/terraform-provider-zdm/cql/scan"
	"github.com/zdmproject/terraform-provider-zdm/internal/secret"
	"github.com/zdmproject/terraform-provider-zdm/proxy/cluster"
	"github.com/zdmproject/terraform-provider-zdm/proxy/config"
	"github.com/zdmproject/terraform-provider-zdm/proxy/drivers"
	"github.com/zdmproject/terraform-provider-zdm/proxy/events"
	"github.com/zdmproject/terraform-provider-zdm/proxy/merge"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
	"github.com/zdmproject/terraform-provider-zdm/proxy/upstream"
)

// handle takes one frame of the client. An error ends the session.
func (s *Session) handle(f frame.Frame) error {
	if v := f.Version(); v != s.client.Version {
		if s.client.Version != 0 {
			return s.protocolError(f, fmt.Sprintf("Invalid message version. Got %d but previous messages on this connection had version %d", v, s.client.Version))
		}
		served, err := s.env.serves(s.ctx, v)
		if err != nil {
			return err
		}
		if !served {
			return s.refuseVersion(byte(v))
		}
		s.client.Version = v
	}
	if f.Flags()&frame.FlagCompressed != 0 {
		var err error
		if f, err = s.client.Decompress(f); err != nil {
			return s.protocolError(f, err.Error())
		}
	}
	if f.Stream() < 0 {
		return s.protocolError(f, fmt.Sprintf("Invalid stream id %d: a client's is not negative", f.Stream()))
	}
	op := f.Opcode()
	switch {
	case op == frame.OpOptions:
		s.respondSupported(f)
		return nil
	case s.state == fresh && op == frame.OpStartup:
		return s.startup(f)
	case s.state == started && op == frame.OpAuthResponse:
		return s.authenticate(f)
	case s.state != ready:
		return s.protocolError(f, fmt.Sprintf("Unexpected message opcode 0x%02X before the handshake is over", byte(op)))
	}
	if s.env.Tracer != nil {
		f = s.env.Tracer.Trace(&s.traced, f, s.client.RemoteAddr())
	}
	switch op {
	case frame.OpQuery:
		s.query(f)
	case frame.OpPrepare:
		s.prepare(f)
	case frame.OpExecute:
		s.execute(f)
	case frame.OpBatch:
		s.execBatch(f)
	case frame.OpRegister:
		s.register(f)
	default:
		return s.protocolError(f, fmt.Sprintf("Unexpected message opcode 0x%02X", byte(op)))
	}
	return nil
}

// protocolError answers and ends the session, as Cassandra does.
func (s *Session) protocolError(f frame.Frame, text string) error {
	s.client.RespondError(&s.batch, 0, frame.ErrorBody{Code: frame.ErrProtocol, Message: text})
	return errRefused
}

// malformed answers a request whose body cannot be read. The frame's end is
// known, so the session goes on.
func (s *Session) malformed(f frame.Frame, cause error) {
	s.client.RespondError(&s.batch, f.Stream(), frame.ErrorBody{Code: frame.ErrProtocol, Message: cause.Error()})
}

// startup answers STARTUP: with AUTHENTICATE if a side that takes part in the
// login asks for one, and otherwise with READY.
func (s *Session) startup(f frame.Frame) error {
	options := make(map[string]string)
	c := frame.NewCursor(f.Body())
	for range c.Short("STARTUP options") {
		name := string(c.String("name of a STARTUP option"))
		options[name] = string(c.String("STARTUP option"))
		if c.Failed() {
			break
		}
	}
	if err := c.Err(); err != nil {
		return s.protocolError(f, "STARTUP: "+err.Error())
	}
	compression, ok := frame.ParseCompression(options["COMPRESSION"])
	if !ok || s.client.Version == frame.V5 && compression == frame.Snappy {
		return s.protocolError(f, fmt.Sprintf("Unknown compression algorithm: %s", options["COMPRESSION"]))
	}
	s.introduce(drivers.Parse(options["DRIVER_NAME"] + " " + options["DRIVER_VERSION"]))
	needed := s.env.loginSides()
	class, asker := "", s.env.credentialSide()
	for _, side := range append([]phase.Side{asker}, asker.Other()) {
		if needed.Has(side) && class == "" {
			class = s.env.authenticator(side)
		}
	}
	if class == "" {
		s.setKeys("", secret.String{})
		if err := s.login(f, frame.OpReady); err != nil {
			return err
		}
		return s.agree(compression)
	}
	s.state = started
	out := frame.AppendHeader(nil, s.client.Version, true, 0, f.Stream(), frame.OpAuthenticate, 0)
	out = frame.AppendString(out, cluster.PlainAuthenticator(class))
	frame.PutLength(out)
	s.client.Respond(&s.batch, f.Stream(), out)
	return s.agree(compression)
}

// agree has the client's connection go over to what STARTUP agreed on, behind the
// answer to it.
func (s *Session) agree(c frame.Compression) error {
	s.endBurst()
	return s.client.Agree(c)
}

// authenticate answers AUTH_RESPONSE with SASL PLAIN: authzid NUL user NUL password.
func (s *Session) authenticate(f frame.Frame) error {
	c := frame.NewCursor(f.Body())
	token := c.Bytes("token")
	if err := c.Err(); err != nil {
		return s.protocolError(f, "AUTH_RESPONSE: "+err.Error())
	}
	if string(token) == "PLAIN" {
		// A client for DSE names its mechanism first, whatever it was asked for.
		out := frame.AppendHeader(nil, s.client.Version, true, 0, f.Stream(), frame.OpAuthChallenge, 0)
		out = frame.AppendBytes(out, []byte("PLAIN-START"))
		frame.PutLength(out)
		s.client.Respond(&s.batch, f.Stream(), out)
		return nil
	}
	parts := bytes.SplitN(token, []byte{0}, 3)
	if len(parts) != 3 || len(parts[1]) == 0 {
		return s.refuseLogin(f, frame.ErrorBody{Code: frame.ErrBadCredentials, Message: "the login is not SASL PLAIN with a user name and a password"})
	}
	s.setKeys(string(parts[1]), secret.New(string(parts[2])))
	return s.login(f, frame.OpAuthSuccess)
}

// setKeys says who the session is on each side: the client itself on the side
// whose credentials it sends, the configured user on the other one. A side that
// asks for no login gets none.
func (s *Session) setKeys(user string, password secret.String) {
	given := upstream.Key{Username: user, Password: password, Version: s.client.Version}
	asker := s.env.credentialSide()
	for _, side := range phase.Sides {
		switch {
		case s.env.Clusters[side].Control().Topology() != nil && s.env.authenticator(side) == "":
			s.keys[side] = upstream.Key{Version: s.client.Version}
		case s.env.Config.ClientCredentials == config.CredentialsSame, side == asker:
			s.keys[side] = given
		default:
			s.keys[side] = s.env.configured(side, s.client.Version)
			s.asOwn |= phase.Of(side)
		}
	}
}

// configured is the login of the user that is configured for a side.
func (e *Env) configured(side phase.Side, v frame.Version) upstream.Key {
	c := &e.Config.Clusters[side]
	return upstream.Key{Username: c.Username, Password: c.Password, Version: v}
}

// login checks the credentials with every side that the phase needs, and
// answers with op when all of them agree. If a side cannot be asked now, the
// connection is closed without an answer, as ZDM does: any ERROR here means to
// drivers (Python's for one) that the credentials are wrong, and they never
// connect again.
func (s *Session) login(f frame.Frame, op frame.Opcode) error {
	s.endBurst()
	ctx, cancel := context.WithTimeout(s.ctx, s.env.Config.Listen.LoginTimeout)
	defer cancel()
	sc := s.scopeFor("")
	var wg sync.WaitGroup
	var errs [2]error
	for _, side := range s.env.loginSides().Each() {
		wg.Go(func() { _, errs[side] = sc.open(ctx, side, true) })
	}
	wg.Wait()
	s.batch.Now = upstream.Nanotime()
	asker := s.env.credentialSide()
	for _, side := range []phase.Side{asker, asker.Other()} {
		if errs[side] == nil {
			continue
		}
		s.env.Metrics.FailedLogin(side)
		s.env.Log.Info("login refused", "client", s.client.RemoteAddr(), "user", s.keys[asker].Username, "cluster", side, "cause", errs[side])
		var lost *upstream.LostError
		var node *cluster.NodeError
		if errors.As(errs[side], &lost) || !errors.As(errs[side], &node) {
			s.noteUnchecked(side, errs[side])
			return errs[side] // see the comment above
		}
		e := frame.ErrorBody{Code: node.Code, Message: node.Message}
		if node.Code == frame.ErrBadCredentials && side != asker {
			e.Message = fmt.Sprintf("the proxy's own user for %s was refused: %s", side, node.Message)
		}
		return s.refuseLogin(f, e)
	}
	s.scope.Store(sc)
	s.state = ready
	s.boundBody()
	s.client.SetReadDeadline(time.Time{})
	if s.draining.Load() {
		s.Drain()
	}
	out := frame.AppendHeader(nil, s.client.Version, true, 0, f.Stream(), op, 0)
	if op == frame.OpAuthSuccess {
		out = frame.AppendBytes(out, nil)
	}
	frame.PutLength(out)
	s.client.Respond(&s.batch, f.Stream(), out)
	return nil
}

// noteUnchecked tells the operator what the client is not told: that it could not
// log in, and what to do if the phase itself could do without the side.
func (s *Session) noteUnchecked(side phase.Side, err error) {
	text := fmt.Sprintf("a client could not log in: %v", err)
	if !s.env.Rule().Needed.Has(side) {
		text += fmt.Sprintf("; the phase does without %s, but it is where clients log in: set client_credentials to %s until it can be reached", side, side.Other())
	}
	if skipped, log := s.env.Faults.Add(text); log {
		s.env.Log.Warn(text, "client", s.client.RemoteAddr(), "others_since", skipped)
	}
}

func (s *Session) refuseLogin(f frame.Frame, e frame.ErrorBody) error {
	s.client.RespondError(&s.batch, f.Stream(), e)
	return errRefused
}

// register answers REGISTER.
func (s *Session) register(f frame.Frame) {
	kinds, err := events.ParseRegister(f.Body())
	if err != nil {
		s.malformed(f, err)
		return
	}
	s.events.Or(uint32(kinds))
	s.client.Respond(&s.batch, f.Stream(), frame.AppendHeader(nil, s.client.Version, true, 0, f.Stream(), frame.OpReady, 0))
	if at := s.env.Config.Instance(); at.IsValid() && kinds.Has(events.Status) {
		// The driver may have heard that this proxy goes, before it came back.
		s.Event(&s.batch, events.Up(at))
	}
}

// usePrepared handles EXECUTE of a USE: as the QUERY that it stands for.
func (s *Session) usePrepared(f frame.Frame, text string) {
	q := frame.AppendHeader(nil, s.client.Version, false, 0, f.Stream(), frame.OpQuery, 0)
	q = frame.AppendPlainQuery(q, s.client.Version, text)
	frame.PutLength(q)
	st := scan.Scan([]byte(text))
	s.use(q, &st, frame.One)
}

// use handles USE: the session gets the pools of the keyspace, and goes over to
// them when every side that the phase writes to has said yes.
func (s *Session) use(f frame.Frame, st *scan.Statement, cl frame.Consistency) {
	known := len(s.scopes)
	sc := s.scopeFor(st.Keyspace.String())
	rule := s.env.Rule()
	ex := newExchange(s, f, sc)
	ex.isUse, ex.consistency, ex.st.Inert = true, cl, true
	ex.plan.Legs, ex.plan.Answer = rule.Needed, rule.Primary
	s.endBurst()
	// A login that takes longer goes on without the request, for the next one.
	ctx, cancel := context.WithTimeout(s.ctx, s.env.Config.Listen.RequestTimeout)
	defer cancel()
	for _, side := range rule.Needed.Each() {
		if _, err := sc.open(ctx, side, false); err != nil {
			ex.free()
			s.forget(known)
			e := merge.LossError(merge.Statement{Inert: true}, cl, err, false)
			var node *cluster.NodeError
			if errors.As(err, &node) {
				e = frame.ErrorBody{Code: node.Code, Message: node.Message}
			}
			s.client.RespondError(&s.batch, f.Stream(), e)
			return
		}
	}
	s.batch.Now = upstream.Nanotime()
	ex.begin(f)
}
