package lab_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	gocql "github.com/apache/cassandra-gocql-driver/v2"
	"github.com/datastax/go-cassandra-native-protocol/message"
	"github.com/datastax/go-cassandra-native-protocol/primitive"

	"github.com/zdmproject/terraform-provider-zdm/internal/cqltest"
	"github.com/zdmproject/terraform-provider-zdm/internal/lab"
	"github.com/zdmproject/terraform-provider-zdm/internal/lab/labtest"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// writeTimes are what both clusters store for a row, in microseconds.
func writeTimes(t *testing.T, l *lab.Lab, keyspace, key string) (out [2]int64) {
	t.Helper()
	for side, c := range [2]*lab.Cluster{l.Origin, l.Target} {
		s := labtest.Session(t, c, keyspace)
		if err := s.Query("SELECT WRITETIME(v) FROM t WHERE k = ?", key).Scan(&out[side]); err != nil {
			t.Fatalf("%s: write time of %s: %v", phase.Sides[side], key, err)
		}
		s.Close()
	}
	return out
}

func mustWork(t *testing.T, what string, m message.Message) message.Message {
	t.Helper()
	if e, isError := m.(message.Error); isError {
		t.Fatalf("%s: %v", what, e)
	}
	return m
}

// Real nodes store the proxy's timestamp on both sides, and keep it in order with
// those of clients that have their own.
func TestBothClustersStoreTheProxysTimestamp(t *testing.T) {
	if testing.Short() {
		t.Skip("needs Cassandra")
	}
	l := labtest.Lab(t)
	keyspace := labtest.Keyspace(t, l)
	values := map[string]string{"phase": "dual_write", "proxy_topology_addresses": "127.0.0.1", "proxy_listen_address": "127.0.0.1",
		"set_write_timestamps": "true", "max_clock_skew_ms": "5000"}
	for side, c := range [2]*lab.Cluster{l.Origin, l.Target} {
		s := labtest.Session(t, c, keyspace)
		if err := s.Query("CREATE TABLE t (k text PRIMARY KEY, v int)").Exec(); err != nil {
			t.Fatal(err)
		}
		for name, v := range map[string]string{
			"contact_points": strings.Join(c.ContactPoints(), ","), "port": fmt.Sprint(c.Port), "username": c.Username, "password": c.Password,
		} {
			values[phase.Sides[side].String()+"_"+name] = v
		}
	}
	port := serveProxy(t, values)
	for _, version := range []primitive.ProtocolVersion{primitive.ProtocolVersion3, primitive.ProtocolVersion4} {
		c := cqltest.Dial(t, fmt.Sprintf("127.0.0.1:%d", port), cqltest.Login{Username: l.Target.Username, Password: l.Target.Password, Version: version})
		mustWork(t, "USE", c.Query(t, "USE "+keyspace))
		key := func(name string) string { return fmt.Sprintf("%s in %s", name, version) }
		insertInto := func(name string) string {
			return fmt.Sprintf("INSERT INTO t (k, v) VALUES ('%s', 1)", key(name))
		}
		before := time.Now().UnixMicro()
		mustWork(t, "QUERY", c.Query(t, insertInto("query")))
		p := mustWork(t, "PREPARE", c.Ask(t, &message.Prepare{Query: insertInto("execute")})).(*message.PreparedResult)
		mustWork(t, "EXECUTE", c.Ask(t, &message.Execute{QueryId: p.PreparedQueryId, ResultMetadataId: p.ResultMetadataId,
			Options: &message.QueryOptions{Consistency: primitive.ConsistencyLevelQuorum}}))
		mustWork(t, "BATCH", c.Ask(t, &message.Batch{Consistency: primitive.ConsistencyLevelQuorum,
			Children: []*message.BatchChild{{Query: insertInto("batch")}, {Query: insertInto("using") + " USING TIMESTAMP 5"}}}))
		last := before - 1
		for _, name := range []string{"query", "execute", "batch"} {
			at := writeTimes(t, l, keyspace, key(name))
			if at[0] != at[1] || at[0] <= last || at[0] > time.Now().UnixMicro() {
				t.Errorf("%s: write times %v, want the same time on both sides, after %d", key(name), at, last)
			}
			last = at[0]
		}
		if at := writeTimes(t, l, keyspace, key("using")); at != [2]int64{5, 5} {
			t.Errorf("%s: write times %v, want the 5 of its text on both sides", key("using"), at)
		}
	}
	driver := gocql.NewCluster("127.0.0.1")
	driver.Port, driver.Keyspace, driver.ProtoVersion, driver.DefaultTimestamp = port, keyspace, 5, false
	driver.Authenticator = gocql.PasswordAuthenticator{Username: l.Target.Username, Password: l.Target.Password}
	driver.Timeout, driver.ConnectTimeout = 30*time.Second, 30*time.Second
	s, err := driver.CreateSession()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	before := time.Now().UnixMicro()
	if err := s.Query("INSERT INTO t (k, v) VALUES (?, ?)", "driver", 1).Exec(); err != nil {
		t.Fatal(err)
	}
	if at := writeTimes(t, l, keyspace, "driver"); at[0] != at[1] || at[0] < before {
		t.Errorf("a driver without timestamps in v5: write times %v, want the same time on both sides, from %d on", at, before)
	}
}

// What each cluster does with the protocol's default timestamp where it has no
// use: that is why the proxy does not set one there.
func TestConditionalStatementsAndCountersUseNoTimestampOfTheRequest(t *testing.T) {
	if testing.Short() {
		t.Skip("needs Cassandra")
	}
	l := labtest.Lab(t)
	keyspace := labtest.Keyspace(t, l)
	for side, cl := range [2]*lab.Cluster{l.Origin, l.Target} {
		name := phase.Sides[side]
		direct := labtest.Session(t, cl, keyspace)
		for _, q := range []string{"CREATE TABLE t (k text PRIMARY KEY, v int)", "CREATE TABLE c (k text PRIMARY KEY, n counter)"} {
			if err := direct.Query(q).Exec(); err != nil {
				t.Fatal(err)
			}
		}
		c := cqltest.Dial(t, fmt.Sprintf("%s:%d", cl.ContactPoints()[0], cl.Port), cqltest.Login{Username: cl.Username, Password: cl.Password})
		mustWork(t, "USE", c.Query(t, "USE "+keyspace))
		long := int64(5) // microseconds after 1970
		ask := func(text string) {
			t.Helper()
			mustWork(t, text, c.Ask(t, &message.Query{Query: text, Options: &message.QueryOptions{
				Consistency: primitive.ConsistencyLevelQuorum, DefaultTimestamp: &long}}))
		}
		before := time.Now().Add(-time.Minute).UnixMicro()
		ask("INSERT INTO t (k, v) VALUES ('lwt', 1) IF NOT EXISTS")
		ask("INSERT INTO t (k, v) VALUES ('plain', 1)")
		for range 2 {
			ask("UPDATE c SET n = n + 1 WHERE k = 'k'")
		}
		var lwt, plain, count int64
		for q, into := range map[string]*int64{
			"SELECT WRITETIME(v) FROM t WHERE k = 'lwt'": &lwt, "SELECT WRITETIME(v) FROM t WHERE k = 'plain'": &plain, "SELECT n FROM c WHERE k = 'k'": &count,
		} {
			if err := direct.Query(q).Scan(into); err != nil {
				t.Fatalf("%s: %s: %v", name, q, err)
			}
		}
		if lwt < before {
			t.Errorf("%s: a conditional INSERT has the write time %d; it was to be that of its ballot", name, lwt)
		}
		if plain != 5 || count != 2 {
			t.Errorf("%s: a plain INSERT has the write time %d, want 5; the counter is %d, want 2", name, plain, count)
		}
	}
}
