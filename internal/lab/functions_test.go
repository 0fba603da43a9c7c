package lab_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	gocql "github.com/apache/cassandra-gocql-driver/v2"
	"github.com/datastax/go-cassandra-native-protocol/message"
	"github.com/google/go-cmp/cmp"

	"github.com/zdmproject/terraform-provider-zdm/internal/cqltest"
	"github.com/zdmproject/terraform-provider-zdm/internal/lab"
	"github.com/zdmproject/terraform-provider-zdm/internal/lab/labtest"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// replacingProxy runs a proxy that replaces all functions in front of the lab's
// clusters, and returns a driver for it, which prepares whatever it can, and a
// client that does not.
func replacingProxy(t *testing.T, l *lab.Lab, keyspace string) (*gocql.Session, *cqltest.Client) {
	t.Helper()
	values := map[string]string{"phase": "dual_write", "proxy_topology_addresses": "127.0.0.1", "proxy_listen_address": "127.0.0.1",
		"replace_cql_functions": "true", "replace_all_cql_functions": "true"}
	for side, c := range [2]*lab.Cluster{l.Origin, l.Target} {
		for name, v := range map[string]string{
			"contact_points": strings.Join(c.ContactPoints(), ","), "port": fmt.Sprint(c.Port), "username": c.Username, "password": c.Password,
		} {
			values[phase.Sides[side].String()+"_"+name] = v
		}
	}
	port := serveProxy(t, values)
	driver := gocql.NewCluster("127.0.0.1")
	driver.Port, driver.Keyspace = port, keyspace
	driver.Authenticator = gocql.PasswordAuthenticator{Username: l.Target.Username, Password: l.Target.Password}
	driver.Timeout, driver.ConnectTimeout = 30*time.Second, 30*time.Second
	s, err := driver.CreateSession()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	c := cqltest.Dial(t, fmt.Sprintf("127.0.0.1:%d", port), cqltest.Login{Username: l.Target.Username, Password: l.Target.Password})
	c.Query(t, "USE "+keyspace)
	return s, c
}

// TestReplacedFunctionsGiveBothClustersTheSameRows writes with every function in
// every place. K is the row's key: a literal in a QUERY, a bind marker otherwise.
func TestReplacedFunctionsGiveBothClustersTheSameRows(t *testing.T) {
	if testing.Short() {
		t.Skip("needs Cassandra")
	}
	l := labtest.Lab(t)
	keyspace := labtest.Keyspace(t, l)
	var direct [2]*gocql.Session
	for side, c := range [2]*lab.Cluster{l.Origin, l.Target} {
		direct[side] = labtest.Session(t, c, keyspace)
		for _, q := range []string{
			"CREATE TYPE udt (a timeuuid, b date)",
			"CREATE TABLE t (k text PRIMARY KEY, tu timeuuid, u uuid, ts timestamp, d date, ti time, b blob, n bigint, l list<timeuuid>, s set<uuid>, m map<timeuuid, text>, f frozen<tuple<int, timeuuid>>, us frozen<udt>)",
			"CREATE TABLE c (k text, c timeuuid, v int, PRIMARY KEY (k, c))",
			"CREATE TABLE p (a text, id timeuuid, v int, PRIMARY KEY ((a, id)))",
		} {
			if err := direct[side].Query(q).Exec(); err != nil {
				t.Fatalf("%s: %v", q, err)
			}
		}
	}
	s, c := replacingProxy(t, l, keyspace)
	statements := []string{
		"INSERT INTO t (k, tu, u, ts, d, ti, n) VALUES (K, now(), uuid(), currentTimestamp(), currentDate(), currentTime(), currentTimestamp())",
		"INSERT INTO t (k, tu, u) VALUES (K, currentTimeUUID(), now()) IF NOT EXISTS",
		"INSERT INTO t (k, ts, n, b, d) VALUES (K, toTimestamp(now()), toUnixTimestamp(now()), uuidAsBlob(uuid()), toDate(now()))",
		"INSERT INTO t (k, tu, u) VALUES (K, (timeuuid)now(), (uuid)uuid())",
		"INSERT INTO t (k, l, s, m, f, us) VALUES (K, [now(), now()], {uuid()}, {now(): 'x'}, (1, now()), {a: now(), b: currentDate()})",
		"INSERT INTO t (k, f) VALUES (K, (1, now()))",
		"INSERT INTO t (k, ts, d) VALUES (K, currentTimestamp() - 2d, currentDate() + 1d)",
		"UPDATE t SET tu = now(), l = l + [now()], s += {uuid(), now()}, m[now()] = 'y', ts = currentTimestamp() WHERE k = K",
		"UPDATE t SET tu = now() WHERE k = K IF tu != now() AND u IN (uuid(), now())",
		"INSERT INTO c (k, c, v) VALUES (K, now(), 1)",
		"UPDATE c SET v = 2 WHERE k = K AND c = now()",
		"UPDATE c SET v = 2 WHERE k = K AND c IN (now(), now())",
		"DELETE FROM c WHERE k = K AND c > now()",
		"DELETE FROM c WHERE k = K AND (c) > (now()) AND (c) < (maxTimeuuid(currentTimestamp()))",
		"INSERT INTO p (a, id, v) VALUES (K, now(), 1)",
		"BEGIN BATCH INSERT INTO c (k, c, v) VALUES (K, now(), 3); INSERT INTO c (k, c, v) VALUES ('both', now(), 3) APPLY BATCH",
	}
	for i, text := range statements {
		key := fmt.Sprint("k", i)
		for name, run := range map[string]func() error{
			"query": func() error {
				if e, isError := c.Query(t, strings.Replace(text, "K", "'"+key+"q'", 1)).(message.Error); isError {
					return fmt.Errorf("%v", e)
				}
				return nil
			},
			"positional": func() error { return s.Query(strings.Replace(text, "K", "?", 1), key+"p").Exec() },
			"named": func() error {
				return s.Query(strings.Replace(text, "K", ":k", 1), gocql.NamedValue("k", key+"n")).Exec()
			},
		} {
			for range 2 {
				if err := run(); err != nil {
					t.Errorf("%s: %s: %v", name, text, err)
				}
			}
		}
	}
	for _, q := range []string{
		"UPDATE t SET m[now()] = ? WHERE k = 'index'",
		"INSERT INTO t (k, m, us) VALUES (?, {}, {a: now(), b: currentDate()})",
	} {
		if err := s.Query(q, "user type").Exec(); err != nil {
			t.Errorf("%s: %v", q, err)
		}
	}
	b := s.Batch(gocql.UnloggedBatch)
	b.Query("INSERT INTO c (k, c, v) VALUES ('batch', now(), 4)")
	b.Query("INSERT INTO c (k, c, v) VALUES (?, now(), ?)", "batch", 5)
	b.Query("INSERT INTO t (k, ts) VALUES (?, toTimestamp(now()))", "batch")
	b.Query("UPDATE t SET l = l + [now()], b = ? WHERE k = ?", []byte("b"), "batch")
	if err := b.Exec(); err != nil {
		t.Errorf("batch: %v", err)
	}
	if err := s.Query("INSERT INTO t (k, tu) VALUES (now(), ?)", gocql.TimeUUID()).Exec(); err == nil {
		t.Error("now() was taken for a text column")
	}
	for table, least := range map[string]int{"t": 27, "c": 26, "p": 6} {
		var rows [2][]string
		for side := range direct {
			iter := direct[side].Query("SELECT JSON * FROM " + table).Iter()
			for row := ""; iter.Scan(&row); {
				rows[side] = append(rows[side], row)
			}
			if err := iter.Close(); err != nil {
				t.Fatal(err)
			}
			slices.Sort(rows[side])
		}
		if diff := cmp.Diff(rows[0], rows[1]); diff != "" {
			t.Errorf("%s: rows of Origin and Target differ (-origin +target):\n%s", table, diff)
		}
		if len(rows[0]) < least {
			t.Errorf("%s has %d rows, want %d or more", table, len(rows[0]), least)
		}
	}
}
