package loglimit_test

import (
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/internal/loglimit"
)

func TestAMessageThatComesAgainAndAgainIsLoggedOnceASecond(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out strings.Builder
		log := slog.New(loglimit.New(slog.NewTextHandler(&out, nil)))
		lines := func(msg string) int { return strings.Count(out.String(), "msg="+msg) }
		for range 100 {
			log.Warn("refused")
			log.With("side", "origin").Warn("refused")
			log.Debug("silent")
		}
		log.Warn("other")
		if got := lines("refused"); got != 10 {
			t.Errorf("%d of 200 equal lines are logged, want the first 10", got)
		}
		if lines("other") != 1 || lines("silent") != 0 {
			t.Errorf("another message is logged %d times, one below the level %d; want 1 and 0", lines("other"), lines("silent"))
		}
		out.Reset()
		time.Sleep(time.Second)
		log.WithGroup("g").Warn("refused", "a", 1)
		log.Warn("refused")
		if got := out.String(); lines("refused") != 1 || !strings.Contains(got, "others_since=190") {
			t.Errorf("a second later the log says %q, want one line that tells of 190 others", got)
		}
	})
}
