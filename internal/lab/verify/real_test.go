package verify_test

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	gocql "github.com/apache/cassandra-gocql-driver/v2"

	"github.com/zdmproject/terraform-provider-zdm/internal/lab"
	"github.com/zdmproject/terraform-provider-zdm/internal/lab/journal"
	"github.com/zdmproject/terraform-provider-zdm/internal/lab/labtest"
	"github.com/zdmproject/terraform-provider-zdm/internal/lab/load"
	"github.com/zdmproject/terraform-provider-zdm/internal/lab/verify"
	"github.com/zdmproject/terraform-provider-zdm/internal/secret"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

func TestMain(m *testing.M) { labtest.Main(m, lab.Options{}) }

// dual stands in for the proxy: it writes to both clusters and reads one.
type dual struct {
	*load.CQL
	other *load.CQL
}

func (d dual) Write(ctx context.Context, w load.Write) error {
	return errors.Join(d.CQL.Write(ctx, w), d.other.Write(ctx, w))
}

// application makes the table in a keyspace of its own and runs a load on both
// clusters until it has sent so many requests.
func application(t *testing.T, l *lab.Lab, requests int) (keyspace string, model *journal.Model) {
	t.Helper()
	keyspace = labtest.Keyspace(t, l)
	var clients [2]*load.CQL
	for side, c := range l.Clusters() {
		if err := load.Setup(t.Context(), labtest.Session(t, c, ""), keyspace, c.Replication()); err != nil {
			t.Fatal(err)
		}
		s, err := load.Connect(load.Endpoint{Hosts: c.ContactPoints(), Port: c.Port, Username: c.Username, Password: secret.New(c.Password), Keyspace: keyspace})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Close)
		clients[side] = load.NewCQL(s)
	}
	path := filepath.Join(t.TempDir(), "journal.ndjson")
	w, err := journal.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	app, err := load.New(load.Config{Client: dual{clients[0], clients[1]}, Journal: w, Workers: 8, Buckets: 4})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- app.Serve(ctx) }()
	for app.Stats().Total.Requests < requests && ctx.Err() == nil {
		time.Sleep(5 * time.Millisecond)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if s := app.Stats(); s.Total.Failures+s.Total.Wrong > 0 || s.Total.Requests < requests {
		t.Fatalf("load: %+v, problems %v; want %d requests without one", s.Total, s.Problems, requests)
	}
	if model, err = journal.Load(path); err != nil {
		t.Fatal(err)
	}
	return keyspace, model
}

func verified(t *testing.T, l *lab.Lab, keyspace string, model *journal.Model) []*verify.Report {
	t.Helper()
	sources := make(map[phase.Side]verify.Source)
	for _, side := range phase.Sides {
		sources[side] = verify.Scan{Session: labtest.Session(t, l.Cluster(side), ""), Keyspace: keyspace}
	}
	reports, err := verify.Both(t.Context(), sources, model, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	return reports
}

func TestWhatALoadWroteIsFoundOnBothRealClustersAndEachInjectedLossIsReported(t *testing.T) {
	l := labtest.Lab(t)
	keyspace, model := application(t, l, 2000)
	for _, r := range verified(t, l, keyspace, model) {
		if len(r.Findings) > 0 || r.Rows != len(model.Rows) || r.Writes < model.Acked {
			t.Fatalf("%s: %d of %d rows, %d changes for %d writes, findings %v", r.Side, r.Rows, len(model.Rows), r.Writes, model.Acked, r.Findings)
		}
	}

	// One row of each kind is damaged on Target, behind the application's back.
	live, dead := pick(model)
	target := labtest.Session(t, l.Target, keyspace)
	damage(t, target, "DELETE FROM item WHERE bucket = ? AND slot = ?", live[0].Bucket, live[0].Slot)
	damage(t, target, "UPDATE item SET version = ?, value = ? WHERE bucket = ? AND slot = ?", 0, journal.Value(live[1], 0), live[1].Bucket, live[1].Slot)
	damage(t, target, "UPDATE item SET value = ? WHERE bucket = ? AND slot = ?", "damaged", live[2].Bucket, live[2].Slot)
	damage(t, target, "INSERT INTO item (bucket, slot, version, value) VALUES (?, ?, ?, ?)", dead.Bucket, dead.Slot, 1, journal.Value(dead, 1))

	reports := verified(t, l, keyspace, model)
	if r := reports[phase.Origin]; len(r.Findings) > 0 {
		t.Errorf("origin was not damaged and has findings: %v", r.Findings)
	}
	r := reports[phase.Target]
	if got, want := r.Count(), "1 missing, 1 stale, 1 resurrected, 1 corrupt"; got != want {
		t.Errorf("findings on target are %q, want %q", got, want)
	}
	var text strings.Builder
	for _, f := range r.Findings {
		text.WriteString(f.String() + "\n")
	}
	for _, k := range append(live[:3:3], dead) {
		if !strings.Contains(text.String(), k.String()+" is ") {
			t.Errorf("the findings do not name %s:\n%s", k, text.String())
		}
	}
}

// pick returns rows that exist and one that was deleted.
func pick(model *journal.Model) (live []journal.Key, dead journal.Key) {
	for k, row := range model.Rows {
		if row.Acked.Deleted {
			dead = k
		} else {
			live = append(live, k)
		}
	}
	return live, dead
}

func damage(t *testing.T, s *gocql.Session, text string, args ...any) {
	t.Helper()
	if err := s.Query(text, args...).Exec(); err != nil {
		t.Fatal(err)
	}
}
