package recent_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/appliance/recent"
)

func open(t *testing.T, path string) *recent.Events {
	t.Helper()
	e, err := recent.OpenEvents(path, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return e
}

func texts(e *recent.Events, after uint64) string {
	page, _ := e.After(after)
	var out []string
	for _, event := range page.Events {
		out = append(out, fmt.Sprintf("%d:%s", event.Seq, event.Text))
	}
	return strings.Join(out, " ")
}

func add(t *testing.T, e *recent.Events, text string) {
	t.Helper()
	if err := e.Add(adminapi.EventConfig, text); err != nil {
		t.Fatal(err)
	}
}

func TestEventsSurviveAndTheirNumbersGrow(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "events")
	first := open(t, path)
	add(t, first, "one")
	add(t, first, "two")
	second := open(t, path) // the first one is not closed: as after a kill
	second.Reserve(10)
	add(t, second, "three")
	if got, want := texts(open(t, path), 0), "1:one 2:two 10:three"; got != want {
		t.Errorf("kept %q, want %q", got, want)
	}
	if got, want := texts(second, 2), "10:three"; got != want {
		t.Errorf("after 2: %q, want %q", got, want)
	}
}

func TestEventThatWasCutOffIsPassedOver(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "events")
	e := open(t, path)
	add(t, e, "one")
	add(t, e, "two")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b[:len(b)-5], 0o600); err != nil {
		t.Fatal(err)
	}
	again := open(t, path)
	add(t, again, "three")
	if got, want := texts(open(t, path), 0), "1:one 2:three"; got != want {
		t.Errorf("kept %q, want %q", got, want)
	}
}

func TestRingAndFileAreBounded(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "events")
	e := open(t, path)
	for i := range 3000 {
		add(t, e, fmt.Sprint(i))
	}
	page, _ := e.After(0)
	if len(page.Events) != 512 || page.Oldest != 3000-511 || page.Events[0].Seq != page.Oldest {
		t.Errorf("%d events, the oldest is %d", len(page.Events), page.Oldest)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(b), "\n"); n > 1024 {
		t.Errorf("the file has %d lines", n)
	}
	add(t, e, strings.Repeat("x", 1<<20))
	if page, _ := e.After(3000); len(page.Events[0].Text) > 5000 {
		t.Errorf("a text of %d bytes was kept", len(page.Events[0].Text))
	}
}

func TestEventsGoOnWithoutTheirFileAndSayItOnce(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "sub")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "events")
	e := open(t, path)
	e.Close() // writes fail from here on
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := e.Add(adminapi.EventConfig, "one"); err == nil {
		t.Error("the first event that was not written is no error")
	}
	if err := e.Add(adminapi.EventConfig, "two"); err != nil {
		t.Errorf("told again: %v", err)
	}
	if got, want := texts(e, 0), "1:one 2:two"; got != want {
		t.Errorf("kept %q, want %q", got, want)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	add(t, e, "three")
	if got, want := texts(open(t, path), 0), "1:one 2:two 3:three"; got != want {
		t.Errorf("after the disk came back: %q, want %q", got, want)
	}
}

func TestWhoFollowsIsToldOfMore(t *testing.T) {
	t.Parallel()
	l := recent.NewLogs(time.Now)
	_, more := l.After(0)
	select {
	case <-more:
		t.Fatal("told of more before there is any")
	default:
	}
	w := l.Writer(adminapi.SourceAgent)
	fmt.Fprint(w, "one\ntw")
	<-more
	_, more = l.After(0)
	fmt.Fprint(w, "o\n"+strings.Repeat("x", 10_000)+"\n")
	<-more
	page, _ := l.After(1)
	if len(page.Lines) != 2 || page.Lines[0].Text != "two" || page.Lines[0].Source != "agent" {
		t.Errorf("got %+v", page.Lines)
	}
	if n := len(page.Lines[1].Text); n > 4200 {
		t.Errorf("a line of %d bytes was kept", n)
	}
}
