package lab

import (
	"context"
	"fmt"
	"time"

	gocql "github.com/apache/cassandra-gocql-driver/v2"
	"golang.org/x/sync/errgroup"
)

// appRole is the application's role on both sides.
const appRole = "app"

// The superuser that Cassandra makes by itself.
const superuser, superuserPassword = "cassandra", "cassandra"

// session connects to this node only.
func (n *Node) session(username, password string) (*gocql.Session, error) {
	c := gocql.NewCluster(n.Address)
	c.Port = n.Port
	c.Authenticator = gocql.PasswordAuthenticator{Username: username, Password: password}
	c.DisableInitialHostLookup = true
	c.NumConns = 1
	c.ConnectTimeout = 5 * time.Second
	c.Timeout = 15 * time.Second
	c.Consistency = gocql.One
	c.Logger = gocql.NewLogger(gocql.LogLevelNone)
	return c.CreateSession()
}

// prepare makes a cluster whose nodes accept connections ready for use: its
// nodes know each other and the application's role exists.
func (c *Cluster) prepare(ctx context.Context) error {
	first := c.Nodes[0]
	if s, err := first.session(c.Username, c.Password); err == nil {
		s.Close()
	} else {
		// The superuser comes a moment after the port.
		if err := first.awaitLogin(ctx, superuser, superuserPassword); err != nil {
			return err
		}
		if err := c.awaitRing(ctx, superuser, superuserPassword); err != nil {
			return err
		}
		if err := c.makeRole(ctx); err != nil {
			return err
		}
	}
	g, gctx := errgroup.WithContext(ctx)
	for _, n := range c.Nodes {
		g.Go(func() error { return n.awaitLogin(gctx, c.Username, c.Password) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return c.awaitRing(ctx, c.Username, c.Password)
}

// awaitRing returns when each node sees all others, with one schema.
func (c *Cluster) awaitRing(ctx context.Context, username, password string) error {
	if len(c.Nodes) == 1 {
		return nil
	}
	for _, n := range c.Nodes {
		err := n.await(ctx, "see the other nodes", func(ctx context.Context) error {
			s, err := n.session(username, password)
			if err != nil {
				return err
			}
			defer s.Close()
			schemas := map[string]bool{}
			var own, theirs gocql.UUID
			if err := s.Query("SELECT schema_version FROM system.local").ScanContext(ctx, &own); err != nil {
				return err
			}
			schemas[own.String()] = true
			peers := 0
			it := s.Query("SELECT schema_version FROM system.peers").IterContext(ctx)
			for it.Scan(&theirs) {
				peers++
				schemas[theirs.String()] = true
			}
			if err := it.Close(); err != nil {
				return err
			}
			if peers != len(c.Nodes)-1 || len(schemas) != 1 {
				return fmt.Errorf("it sees %d of %d other nodes and %d schema versions", peers, len(c.Nodes)-1, len(schemas))
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) makeRole(ctx context.Context) error {
	s, err := c.Nodes[0].session(superuser, superuserPassword)
	if err != nil {
		return err
	}
	defer s.Close()
	var statements []string
	if len(c.Nodes) > 1 {
		statements = append(statements, fmt.Sprintf(
			"ALTER KEYSPACE system_auth WITH replication = {'class': 'SimpleStrategy', 'replication_factor': %d}", c.Replication()))
	}
	statements = append(statements, fmt.Sprintf(
		"CREATE ROLE IF NOT EXISTS %s WITH PASSWORD = '%s' AND SUPERUSER = true AND LOGIN = true", appRole, c.Password))
	for i, text := range statements {
		if err := s.Query(text).ExecContext(ctx); err != nil {
			return fmt.Errorf("prepare the %s cluster: statement %d: %w", c.Side, i+1, err)
		}
	}
	return nil
}
