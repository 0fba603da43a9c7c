package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/appliance/client"
	"github.com/zdmproject/terraform-provider-zdm/internal/cqltest"
)

func TestRealProxyTakesHotSettingsWhileItServes(t *testing.T) {
	t.Parallel()
	r := serving(t)
	address := fmt.Sprintf("127.0.0.1:%d", r.port)
	login := cqltest.Login{Username: "app", Password: targetPassword}
	first := cqltest.Dial(t, address, login)
	before, err := r.c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	conf := r.config()
	conf.Settings["log_level"], conf.Settings["proxy_max_client_connections"] = "DEBUG", "1"
	got, err := r.c.PutConfig(t.Context(), conf, 1)
	if err != nil || got.Applied != adminapi.Hot || got.Running != 2 {
		t.Fatalf("%+v, %v", got, err)
	}
	if _, err := cqltest.Connect(t, address, login); err == nil {
		t.Error("a second client was let in")
	}
	first.Query(t, "SELECT v FROM ks.t") // it is still there
	first.Close()
	r.await(t, "rid of the client", func(st *adminapi.Status) bool { return st.Proxy.Clients == 0 })
	err = r.c.FollowLogs(t.Context(), client.LogFilter{Source: adminapi.SourceProxy}, func(l adminapi.LogLine) error {
		if strings.Contains(l.Text, "client left") { // which is told at DEBUG only
			return errSeen
		}
		return nil
	})
	if err != errSeen {
		t.Fatal(err)
	}
	// It tells the generation too, so the agent finds nothing to do after a restart.
	after := r.await(t, "ready", func(st *adminapi.Status) bool { return st.Ready })
	if after.Proxy.PID != before.Proxy.PID || after.Proxy.Generation != 2 {
		t.Errorf("process %d with generation %d, was %d", after.Proxy.PID, after.Proxy.Generation, before.Proxy.PID)
	}
}

var errSeen = fmt.Errorf("seen")
