package lab_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/datastax/go-cassandra-native-protocol/message"
	"github.com/datastax/go-cassandra-native-protocol/primitive"

	"github.com/zdmproject/terraform-provider-zdm/internal/lab/labtest"
)

func TestATableThatClientsHearOfIsOnBothSides(t *testing.T) {
	l := labtest.Lab(t)
	keyspace := labtest.Keyspace(t, l)
	_, c := replacingProxy(t, l, keyspace)
	if m, ok := c.Ask(t, &message.Register{EventTypes: []primitive.EventType{primitive.EventTypeSchemaChange}}).(*message.Ready); !ok {
		t.Fatalf("REGISTER: got %v, want READY", m)
	}
	for i := range 3 {
		table := fmt.Sprintf("t%d", i)
		made := c.Send(&message.Query{Query: "CREATE TABLE " + table + " (k int PRIMARY KEY)"})
		for heard := false; !heard; {
			select {
			case m := <-c.Events:
				e, ok := m.(*message.SchemaChangeEvent)
				heard = ok && e.Keyspace == keyspace && e.Object == table && e.ChangeType == primitive.SchemaChangeTypeCreated
			case <-time.After(time.Minute):
				t.Fatalf("no event of table %s", table)
			}
		}
		for _, side := range l.Clusters() {
			s := labtest.Session(t, side, "")
			var name string
			if err := s.Query("SELECT table_name FROM system_schema.tables WHERE keyspace_name = ? AND table_name = ?", keyspace, table).Scan(&name); err != nil {
				t.Errorf("the client has heard of %s, and %s does not have it: %v", table, side.Side, err)
			}
		}
		if m := c.Await(t, made).Message(); m.GetOpCode() != primitive.OpCodeResult {
			t.Errorf("CREATE TABLE: %v", m)
		}
	}
}
