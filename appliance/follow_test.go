package appliance_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/appliance/client"
)

var errEnough = errors.New("enough")

func TestEventsCanBeFollowed(t *testing.T) {
	t.Parallel()
	in := serving(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var kinds []string
	err := in.c.FollowEvents(ctx, 0, func(e adminapi.Event) error {
		kinds = append(kinds, string(e.Kind))
		switch e.Kind {
		case adminapi.EventPhase: // from before
			_, err := in.c.PutMark(ctx, "mine", adminapi.MarkRequest{Reason: "r"}, 0)
			return err
		case adminapi.EventMark: // that comes while it is followed
			return errEnough
		}
		return nil
	})
	if !errors.Is(err, errEnough) {
		t.Fatalf("following ended with %v after %v", err, kinds)
	}
}

func TestFollowersAreToldThatTheAgentEnds(t *testing.T) {
	t.Parallel()
	in := serving(t)
	begun, ended := make(chan struct{}), make(chan error)
	go func() {
		first := true
		ended <- in.c.FollowEvents(context.Background(), 0, func(adminapi.Event) error {
			if first {
				close(begun)
			}
			first = false
			return nil
		})
	}()
	<-begun
	in.cancel()
	var gone *client.UnreachableError
	if err := <-ended; !errors.As(err, &gone) {
		t.Errorf("the follower is told %v", err)
	}
}

func TestLogsHaveTheLinesOfAgentAndProxy(t *testing.T) {
	t.Parallel()
	in := serving(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	// The line of the proxy is noticed a moment after it was written.
	err := in.c.FollowLogs(ctx, client.LogFilter{Source: adminapi.SourceProxy}, func(l adminapi.LogLine) error {
		if l.Source != "proxy-1" || !strings.Contains(l.Text, "fake proxy is idle") {
			t.Errorf("a line of the proxy is %+v", l)
		}
		return errEnough
	})
	if !errors.Is(err, errEnough) {
		t.Fatal(err)
	}
	page, err := in.c.Logs(ctx, client.LogFilter{Source: adminapi.SourceAgent, Tail: 2})
	if err != nil || len(page.Lines) != 2 || page.Lines[0].Source != adminapi.SourceAgent {
		t.Errorf("the last lines of the agent: %+v, %v", page, err)
	}
	all, err := in.c.Logs(ctx, client.LogFilter{})
	if err != nil || len(all.Lines) < 3 || all.Lines[0].Seq != all.Oldest {
		t.Fatalf("all lines: %+v, %v", all, err)
	}
	rest, err := in.c.Logs(ctx, client.LogFilter{After: all.Lines[0].Seq})
	if err != nil || len(rest.Lines) < len(all.Lines)-1 || rest.Lines[0].Seq != all.Lines[1].Seq {
		t.Errorf("after the first line: %+v, %v", rest, err)
	}
}

func TestMetricsAreOfTheAgentAndOfItsProxy(t *testing.T) {
	t.Parallel()
	in := serving(t)
	own, err := in.c.Metrics(t.Context(), adminapi.PathMetrics)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"zdm_appliance_ready 1\n", "zdm_appliance_generation 1\n", `zdm_appliance_phase{phase="dual_write"} 1`, `zdm_appliance_phase{phase="cut_over"} 0`,
		`zdm_appliance_calls_total{call="putConfig",status="200"} 1`, `zdm_appliance_info{cluster_id="cluster-1",instance="one",version="test"} 1`,
		"zdm_appliance_drained 0\n", "go_goroutines ",
	} {
		if !strings.Contains(string(own), want) {
			t.Errorf("the agent's metrics lack %q", want)
		}
	}
	theirs, err := in.c.Metrics(t.Context(), adminapi.PathProxyMetrics)
	if err != nil || string(theirs) != "fake_requests_total 7\n" {
		t.Errorf("the proxy's metrics: %q, %v", theirs, err)
	}
	for _, path := range []string{adminapi.PathProxyMetrics, adminapi.PathNodeMetrics} {
		_, err = newInstance(t).c.Metrics(t.Context(), path)
		wantProblem(t, err, "not-ready", 409)
	}
}
