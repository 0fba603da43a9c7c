package proxy_test

import (
	"errors"
	"maps"
	"net"
	"strings"
	"testing"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
	"github.com/zdmproject/terraform-provider-zdm/internal/cqltest"
	"github.com/zdmproject/terraform-provider-zdm/proxy"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

func TestWithoutTargetAClientOfOriginOnlyNeedsOriginsCredentials(t *testing.T) {
	t.Parallel()
	origin, target := cqltest.Options{Username: "o", Password: "origin-secret"}, cqltest.Options{Username: "t", Password: "target-secret"}
	w := start(t, phase.OriginOnly, origin, target, nil)
	w.target.Stop()
	// A proxy that has never reached Target.
	serveAlone := func(credentials string) (*proxy.Server, string) {
		values := maps.Clone(w.values)
		values["client_credentials"] = credentials
		srv := serve(t, values)
		if err := srv.SetPhase(phase.OriginOnly, 1); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the proxy is ready without Target", func() bool { return len(srv.NotReady()) == 0 })
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if err := srv.Accept(l); err != nil {
			t.Fatal(err)
		}
		return srv, l.Addr().String()
	}
	srv, addr := serveAlone("target")
	_, err := cqltest.Connect(t, addr, cqltest.Login{Username: "t", Password: "target-secret"})
	var refused *cqltest.Refused
	if err == nil || errors.As(err, &refused) {
		t.Errorf("Target's credentials, which nobody can check: %v, want the connection closed without an answer", err)
	}
	const advice = "set client_credentials to origin until it can be reached"
	last := srv.Status().Errors
	if len(last) == 0 || !strings.Contains(last[len(last)-1].Text, advice) {
		t.Errorf("the last errors are %v, want one with %q", last, advice)
	}
	_, addr = serveAlone("origin")
	mustVoid(t, cqltest.Dial(t, addr, cqltest.Login{Username: "o", Password: "origin-secret"}).Query(t, insert))
	if _, err := cqltest.Connect(t, addr, cqltest.Login{Username: "o", Password: "wrong"}); !errors.As(err, &refused) {
		t.Errorf("a wrong password gives %v, want a refusal", err)
	}
}

func TestAClientMayNameItsMechanismFirstAsWithDSE(t *testing.T) {
	t.Parallel()
	login := cqltest.Options{Username: "app", Password: "sesame"}
	w := start(t, phase.DualWrite, login, login, nil)
	nc := dialRaw(t, w.addr)
	in := frame.NewReader(nc, frame.MaxBody)
	say := func(op frame.Opcode, body []byte) frame.Frame {
		t.Helper()
		out := append(frame.AppendHeader(nil, frame.V4, false, 0, 1, op, 0), body...)
		frame.PutLength(out)
		if _, err := nc.Write(out); err != nil {
			t.Fatal(err)
		}
		f, err := in.Next()
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	startup := frame.AppendString(frame.AppendString(frame.AppendShort(nil, 1), "CQL_VERSION"), "3.0.0")
	if f := say(frame.OpStartup, startup); f.Opcode() != frame.OpAuthenticate {
		t.Fatalf("STARTUP is answered by % x, want AUTHENTICATE", f)
	}
	challenge := say(frame.OpAuthResponse, frame.AppendBytes(nil, []byte("PLAIN")))
	if c := frame.NewCursor(challenge.Body()); challenge.Opcode() != frame.OpAuthChallenge || string(c.Bytes("token")) != "PLAIN-START" {
		t.Fatalf("the mechanism is answered by % x, want the challenge PLAIN-START", challenge)
	}
	if f := say(frame.OpAuthResponse, frame.AppendBytes(nil, []byte("\x00app\x00sesame"))); f.Opcode() != frame.OpAuthSuccess {
		t.Errorf("the credentials are answered by % x, want AUTH_SUCCESS", f)
	}
}
