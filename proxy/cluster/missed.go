package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
	"github.com/zdmproject/terraform-provider-zdm/proxy/endpoint"
)

// tellMissed says which keyspaces may have changed while there was no connection.
// An error is the connection's end; what the node refuses is only logged.
func (c *Control) tellMissed(ctx context.Context, l *link) error {
	keyspaces, err := l.keyspaces(ctx)
	var node *NodeError
	if errors.As(err, &node) {
		c.log.Warn("the schema has changed while there was no control connection, and its keyspaces cannot be read; clients are not told", "error", err.Error())
		return nil
	}
	if err != nil {
		return fmt.Errorf("node %s: %w", endpoint.Name(l.node), err)
	}
	c.log.Info("the schema has changed while there was no control connection", "keyspaces", len(keyspaces))
	c.cfg.OnSchemaMissed(keyspaces)
	return nil
}

// keyspaces are those that are not the system's own.
func (l *link) keyspaces(ctx context.Context) (names []string, err error) {
	rows, err := l.query(ctx, "SELECT keyspace_name FROM system_schema.keyspaces")
	var node *NodeError
	if errors.As(err, &node) && node.Code == frame.ErrInvalid {
		// Before Cassandra 3.0 the schema was elsewhere.
		rows, err = l.query(ctx, "SELECT keyspace_name FROM system.schema_keyspaces")
	}
	if err != nil {
		return nil, err
	}
	for _, row := range rows.Data {
		if name := string(row[0]); name != "system" && !strings.HasPrefix(name, "system_") {
			names = append(names, name)
		}
	}
	return names, nil
}
