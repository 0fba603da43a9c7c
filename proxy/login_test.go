package proxy_test

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/datastax/go-cassandra-native-protocol/message"
	"github.com/datastax/go-cassandra-native-protocol/primitive"

	"github.com/zdmproject/terraform-provider-zdm/internal/cqltest"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

func TestTheClientsOwnCredentialsGoToBothSidesWhereTheyAreTheSame(t *testing.T) {
	t.Parallel()
	origin, target := cqltest.Options{Username: "app", Password: "sesame"}, cqltest.Options{Username: "app", Password: "sesame"}
	w := start(t, phase.DualWrite, origin, target, map[string]string{"client_credentials": "same"})
	mustVoid(t, cqltest.Dial(t, w.addr, cqltest.Login{Username: "app", Password: "sesame"}).Query(t, insert))
	w.origin.ClearRequests()
	w.target.ClearRequests()
	const wrong = "mellon"
	var refused *cqltest.Refused
	if _, err := cqltest.Connect(t, w.addr, cqltest.Login{Username: "app", Password: wrong}); !errors.As(err, &refused) {
		t.Fatalf("a wrong password: got %v, want a refusal", err)
	} else if _, ok := refused.Answer.(*message.AuthenticationError); !ok {
		t.Errorf("a wrong password: got %v, want an authentication error", refused.Answer)
	}
	for _, s := range phase.Sides {
		// The configured user would have been let in.
		for _, r := range w.side(s).WaitFor(t, 1, cqltest.WithOpcode(primitive.OpCodeAuthResponse)) {
			if got := string(r.Message.(*message.AuthResponse).Token); got != "\x00app\x00"+wrong {
				t.Errorf("%s was asked to check %q, want the client's own", s, got)
			}
		}
	}
}

func TestAClientOfADSEClusterLogsInInOneStep(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{Username: "app", Password: "sesame"}, nil)
	const class = "com.datastax.bdp.cassandra.auth.DseAuthenticator"
	w.target.Handle(func(r cqltest.Request) cqltest.Reply {
		switch m := r.Message.(type) {
		case *message.Startup:
			return cqltest.Message(&message.Authenticate{Authenticator: class})
		case *message.AuthResponse:
			if string(m.Token) == "PLAIN" {
				return cqltest.Message(&message.AuthChallenge{Token: []byte("PLAIN-START")})
			}
		}
		return cqltest.Ordinary()
	})
	w.target.DropConnections()
	eventually(t, "a client is asked for a name and a password at once, and let in", func() bool {
		c, err := cqltest.Connect(t, w.addr, cqltest.Login{Username: "app", Password: "sesame"})
		if err != nil {
			return false
		}
		_, ok := c.Query(t, insert).(*message.VoidResult)
		return ok
	})
	steps := map[int][]string{} // by connection
	for _, r := range w.target.Requests(cqltest.WithOpcode(primitive.OpCodeAuthResponse)) {
		steps[r.Conn] = append(steps[r.Conn], string(r.Message.(*message.AuthResponse).Token))
	}
	for _, tokens := range steps {
		if slices.Equal(tokens, []string{"PLAIN", "\x00app\x00sesame"}) {
			return
		}
	}
	t.Errorf("no connection to the cluster took its two steps: %v", steps)
}

func TestManyLoginsAtOnceReachAClusterFourAtATime(t *testing.T) {
	t.Parallel()
	const clients, together = 12, 4
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{Username: "app", Password: "sesame"}, nil)
	w.target.ClearRequests()
	var arrived, released atomic.Int32
	gate := make(chan struct{})
	w.target.Handle(func(r cqltest.Request) cqltest.Reply {
		if r.Opcode != primitive.OpCodeAuthResponse {
			return cqltest.Ordinary()
		}
		if n := arrived.Add(1) - released.Load(); n > together {
			t.Errorf("%d logins are checked at once, want at most %d", n, together)
		}
		<-gate
		return cqltest.Ordinary()
	})
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			var refused *cqltest.Refused
			// Each password is another, so that none is checked for all.
			if _, err := cqltest.Connect(t, w.addr, cqltest.Login{Username: "app", Password: fmt.Sprint("wrong", i)}); !errors.As(err, &refused) {
				t.Errorf("login %d: got %v, want a refusal", i, err)
			}
		})
	}
	for i := range clients {
		w.target.WaitFor(t, min(i+together, clients), cqltest.WithOpcode(primitive.OpCodeAuthResponse))
		released.Add(1)
		gate <- struct{}{}
	}
	wg.Wait()
}

func TestEqualLoginsAtOnceAreCheckedForAll(t *testing.T) {
	t.Parallel()
	const clients = 20
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{Username: "app", Password: "sesame"}, nil)
	w.target.ClearRequests()
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			if _, err := cqltest.Connect(t, w.addr, cqltest.Login{Username: "app", Password: "sesame"}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	// One check is good for two seconds, so on a slow machine there are some more.
	if n := len(w.target.Requests(cqltest.WithOpcode(primitive.OpCodeAuthResponse))); n == 0 || n > clients/2 {
		t.Errorf("%d checks for %d equal logins", n, clients)
	}
}

func TestOriginAloneServesWithoutTargetIfClientsSendItsCredentials(t *testing.T) {
	t.Parallel()
	closed := cqltest.Options{Username: "app", Password: "sesame"}
	for setting, served := range map[string]bool{"target": false, "origin": true, "same": false} {
		w := start(t, phase.OriginOnly, closed, closed, map[string]string{"client_credentials": setting})
		w.target.Stop()
		c, err := cqltest.Connect(t, w.addr, cqltest.Login{Username: "app", Password: "sesame"})
		var refused *cqltest.Refused
		switch {
		case served && err != nil:
			t.Errorf("client_credentials=%s: %v", setting, err)
		case served:
			mustVoid(t, c.Query(t, insert))
		case err == nil || errors.As(err, &refused):
			t.Errorf("client_credentials=%s: got %v, want the connection closed: nobody can check the login", setting, err)
		}
	}
}
