package main

import (
	"encoding/json"
	"log/slog"
	"strings"
	"syscall"
	"testing"

	"github.com/zdmproject/terraform-provider-zdm/internal/cqltest"
	"github.com/zdmproject/terraform-provider-zdm/proxy/config"
)

func TestTheLogLevelChangesWithoutARestart(t *testing.T) {
	t.Parallel()
	for _, usual := range []string{"INFO", "WARN", "FATAL", "TRACE"} {
		_, _, settings := pair(t, "127.0.0.1")
		settings["log_level"] = usual
		cfg, err := config.Parse(settings)
		if err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		log := newLogger(&out, cfg)
		before := log.level.Level()
		log.toggle()
		log.Debug("seen")
		log.toggle()
		if log.level.Level() != before {
			t.Errorf("%s: after two hang-ups the level is %v", usual, log.level.Level())
		}
		lines := strings.Count(out.String(), "\n")
		if strings.Count(out.String(), "SIGHUP: the log level is another one") != 2 || !strings.Contains(out.String(), `"msg":"seen"`) || lines != 3 {
			t.Errorf("%s: logged %s", usual, out.String())
		}
	}
}

func TestSIGHUPWithoutAFileTurnsDebugOnAndOffAgain(t *testing.T) {
	t.Parallel()
	_, _, settings := pair(t, "127.0.0.1")
	p := launch(t, environment(settings))
	address := p.logged("serving", "address")
	leave := func() {
		c, err := cqltest.Connect(t, address, cqltest.Login{})
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	leave()
	if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if level := p.logged("SIGHUP: the log level is another one", "level"); level != "DEBUG" {
		t.Errorf("the level is %s, want DEBUG", level)
	}
	leave()
	p.logged("client left", "client")
}

// What an operator reads while all goes well: each line once, and no line for a
// client or a request.
func TestALogWithoutTroubleIsShort(t *testing.T) {
	t.Parallel()
	_, _, settings := pair(t, "127.0.0.1")
	p := launch(t, environment(settings))
	c := cqltest.Dial(t, p.logged("serving", "address"), cqltest.Login{})
	for range 20 {
		c.Query(t, "INSERT INTO ks.t (k) VALUES (1)")
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := p.exit(); code != 0 {
		t.Errorf("code %d after SIGTERM, want 0", code)
	}
	seen := map[string]int{}
	for line := range strings.Lines(p.text()) {
		var entry struct {
			Level slog.Level
			Msg   string
		}
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Errorf("not a line of JSON: %s", line)
		}
		if entry.Level > slog.LevelInfo {
			t.Errorf("a warning: %s", line)
		}
		seen[entry.Msg]++
	}
	for msg, n := range seen {
		want := 1
		if msg == "control connection open" {
			want = 2
		}
		if n > want {
			t.Errorf("%q is logged %d times", msg, n)
		}
	}
	for _, msg := range []string{"starting", "metrics and health are served", "phase served", "serving", "draining", "drained"} {
		if seen[msg] != 1 {
			t.Errorf("%q is logged %d times, want once", msg, seen[msg])
		}
	}
}
