package lab_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/datastax/go-cassandra-native-protocol/message"
	"github.com/google/go-cmp/cmp"

	"github.com/zdmproject/terraform-provider-zdm/internal/cqltest"
	"github.com/zdmproject/terraform-provider-zdm/internal/lab"
	"github.com/zdmproject/terraform-provider-zdm/internal/lab/labtest"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// TestSystemTablesHaveTheColumnsThatANodeGives asks each cluster and a proxy in
// front of it the same. The values of columns "same" are compared too.
func TestSystemTablesHaveTheColumnsThatANodeGives(t *testing.T) {
	if testing.Short() {
		t.Skip("needs Cassandra")
	}
	l := labtest.Lab(t)
	for side, c := range [2]*lab.Cluster{l.Origin, l.Target} {
		values := map[string]string{"phase": "dual_write", "proxy_topology_addresses": "127.0.0.1", "proxy_listen_address": "127.0.0.1",
			"system_queries_mode": strings.ToUpper(phase.Sides[side].String())}
		for i, c := range [2]*lab.Cluster{l.Origin, l.Target} {
			for name, v := range map[string]string{
				"contact_points": strings.Join(c.ContactPoints(), ","), "port": fmt.Sprint(c.Port), "username": c.Username, "password": c.Password,
			} {
				values[phase.Sides[i].String()+"_"+name] = v
			}
		}
		proxied := cqltest.Dial(t, fmt.Sprintf("127.0.0.1:%d", serveProxy(t, values)), cqltest.Login{Username: l.Target.Username, Password: l.Target.Password})
		direct := cqltest.Dial(t, fmt.Sprintf("%s:%d", c.ContactPoints()[0], c.Port), cqltest.Login{Username: c.Username, Password: c.Password})
		for _, clause := range []string{
			"*", "key AS same", "NOW()", "system.now() AS n", "toTimestamp(now()), uuid()", "toUnixTimestamp(now())", "toDate(now())",
			"currentTimestamp()", "currentTimeUUID()", "currentDate()", "currentTime()", "cast(now() AS date)", "cast(now() AS timestamp) AS c",
			"cast(release_version AS text)", "cast(cql_version AS text) AS same", "cast(rpc_port AS text)", "cast(rpc_port AS bigint)", "cast(host_id AS text)",
			"token(key)", "token(key) AS same", "token(partitioner) AS same", "toJson(tokens)", "toJson(key) AS same", "toJson(now())", "ttl(rack)", "ttl(rack) AS same", "writetime(rack)",
			"count(*)", "count(1) AS same", "count(key)", "count(now())", "max(rpc_port)", "min(key)", "min(key) AS same", "max(rpc_address)",
			"max(cast(rpc_port AS bigint))", "DISTINCT token(key)", "DISTINCT key, now()", "JSON now()", "JSON token(key), key AS \"Same\", count(*)",
			// What both refuse.
			"nofn(key)", "toTimestamp(host_id)", "cast(key AS int)", "token()", "uuid(key)", "writetime(key)", "1", "nope", "toJson(nope)", "now",
		} {
			text := "SELECT " + clause + " FROM system.local WHERE key = 'local'"
			want, got := answerOf(direct.Query(t, text)), answerOf(proxied.Query(t, text))
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s: %s: the node's and the proxy's answer differ (-node +proxy):\n%s", phase.Sides[side], text, diff)
			}
		}
	}
}

// answerOf renders the columns of an answer and the values of those called
// "same", or the code of an error.
func answerOf(m message.Message) (out []string) {
	switch m := m.(type) {
	case message.Error:
		return []string{fmt.Sprint(m.GetErrorCode())}
	case *message.RowsResult:
		for i, c := range m.Metadata.Columns {
			column := fmt.Sprintf("%s.%s %q %s", c.Keyspace, c.Table, c.Name, c.Type.AsCql())
			for _, row := range m.Data {
				if c.Name == "same" {
					column += fmt.Sprintf(" %q", row[i])
				}
			}
			out = append(out, column)
		}
	}
	return out
}
