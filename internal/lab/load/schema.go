package load

import (
	"context"
	"fmt"

	gocql "github.com/apache/cassandra-gocql-driver/v2"
)

// DefaultKeyspace is where the application keeps its rows.
const DefaultKeyspace = "zdmlab"

// Setup makes the keyspace and its table on one cluster, through a session
// that goes there directly; what is there already stays.
func Setup(ctx context.Context, session *gocql.Session, keyspace string, replicas int) error {
	for _, text := range []string{
		fmt.Sprintf("CREATE KEYSPACE IF NOT EXISTS %s WITH replication = {'class': 'SimpleStrategy', 'replication_factor': %d}", keyspace, replicas),
		fmt.Sprintf("CREATE TABLE IF NOT EXISTS %s.item (bucket text, slot int, version bigint, value text, PRIMARY KEY (bucket, slot))", keyspace),
	} {
		if err := session.Query(text).ExecContext(ctx); err != nil {
			return fmt.Errorf("make keyspace %s: %w", keyspace, err)
		}
	}
	if err := session.AwaitSchemaAgreement(ctx); err != nil {
		return fmt.Errorf("make keyspace %s: schema agreement: %w", keyspace, err)
	}
	return nil
}
