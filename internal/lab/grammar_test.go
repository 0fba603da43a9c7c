package lab_test

import (
	"fmt"
	"testing"

	"github.com/datastax/go-cassandra-native-protocol/message"
	"github.com/datastax/go-cassandra-native-protocol/primitive"

	"github.com/zdmproject/terraform-provider-zdm/cql/scan"
	"github.com/zdmproject/terraform-provider-zdm/internal/cqltest"
	"github.com/zdmproject/terraform-provider-zdm/internal/lab/labtest"
)

// The scanner's data files hold real CQL, and say which release reads what: the
// nodes' own parsers are asked. PREPARE parses, and applies nothing. Where the
// statement fits the one table that there is, its bind markers are counted too.
func TestNodesReadTheStatementsOfTheScannersDataFiles(t *testing.T) {
	l := labtest.Lab(t)
	keyspace := labtest.Keyspace(t, l)
	all := cqltest.Samples(t, "../../cql/scan/testdata/*.txt")
	for _, c := range l.Clusters() {
		client := cqltest.Dial(t, fmt.Sprintf("%s:%d", c.ContactPoints()[0], c.Port), cqltest.Login{Username: c.Username, Password: c.Password})
		for _, text := range []string{
			"USE " + keyspace,
			`CREATE TABLE t (k int PRIMARY KEY, c int, v int, w int, l list<text>, s set<text>, m map<text, int>, "V" int, "C" text)`,
		} {
			if e, failed := client.Query(t, text).(message.Error); failed {
				t.Fatalf("%s: %s", text, e.GetErrorMessage())
			}
		}
		prepared := 0
		for _, s := range all {
			problem := ""
			switch m := client.Ask(t, &message.Prepare{Query: s.Text}).(type) {
			case message.Error:
				if m.GetErrorCode() == primitive.ErrorCodeSyntaxError {
					problem = m.GetErrorMessage()
				}
			case *message.PreparedResult:
				prepared++
				if n, found := len(m.VariablesMetadata.Columns), scan.Scan([]byte(s.Text)).BindMarkers; n != found {
					t.Errorf("%s\n%s counts %d bind markers, the scanner %d", s, c.Version, n, found)
				}
			}
			if read := problem == ""; read != s.Read(c.Version) {
				t.Errorf("%s\n%s reads it: %t, the file says %t. %s", s, c.Version, read, !read, problem)
			}
		}
		if prepared < len(all)/10 {
			t.Errorf("%s prepared %d of %d statements", c.Version, prepared, len(all))
		}
		t.Logf("%s prepared %d of %d statements", c.Version, prepared, len(all))
	}
}
