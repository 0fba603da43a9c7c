package demo

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	gocql "github.com/apache/cassandra-gocql-driver/v2"

	"github.com/zdmproject/terraform-provider-zdm/internal/lab"
	"github.com/zdmproject/terraform-provider-zdm/internal/lab/journal"
	"github.com/zdmproject/terraform-provider-zdm/internal/lab/load"
	"github.com/zdmproject/terraform-provider-zdm/internal/lab/verify"
	"github.com/zdmproject/terraform-provider-zdm/internal/secret"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// Endpoint is where an application of the lab connects: "proxies", directly
// "origin" or "target", or the addresses of other proxies, separated by commas.
// Through proxies it logs in as at Target, which is what client_credentials =
// "target" asks for.
func Endpoint(l *lab.Lab, name string) (load.Endpoint, error) {
	e := load.Endpoint{Port: l.Target.Port, Username: l.Target.Username, Password: secret.New(l.Target.Password), Keyspace: load.DefaultKeyspace}
	switch name {
	case "origin":
		e.Hosts, e.Password = l.Origin.ContactPoints(), secret.New(l.Origin.Password)
	case "target":
		e.Hosts = l.Target.ContactPoints()
	case "proxies":
		if len(l.Appliances) == 0 {
			return e, errors.New("the lab has no proxies; bring some up with zdm-lab up --proxies 2, or connect with --through origin")
		}
		for _, a := range l.Appliances {
			e.Hosts, e.Port = append(e.Hosts, a.ListenAddress), a.Port
		}
	default:
		for address := range strings.SplitSeq(name, ",") {
			if _, err := netip.ParseAddr(address); err != nil {
				return e, fmt.Errorf("%q is not one of proxies, origin, target, nor a list of addresses", name)
			}
			e.Hosts = append(e.Hosts, address)
		}
	}
	return e, nil
}

// direct opens a session to one side that is not the application's.
func direct(l *lab.Lab, side phase.Side) (*gocql.Session, error) {
	e, err := Endpoint(l, side.String())
	if err != nil {
		return nil, err
	}
	e.Keyspace = ""
	return load.Connect(e)
}

// Setup makes the application's keyspace and table on both clusters.
func Setup(ctx context.Context, l *lab.Lab) error {
	for _, side := range phase.Sides {
		session, err := direct(l, side)
		if err != nil {
			return err
		}
		err = load.Setup(ctx, session, load.DefaultKeyspace, l.Cluster(side).Replication())
		session.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", side, err)
		}
	}
	return nil
}

// Verify compares the clusters with the model; see verify.Side.
func Verify(ctx context.Context, l *lab.Lab, model *journal.Model, sides phase.Set, since time.Time) ([]*verify.Report, error) {
	sources := make(map[phase.Side]verify.Source)
	for _, side := range sides.Each() {
		session, err := direct(l, side)
		if err != nil {
			return nil, err
		}
		defer session.Close()
		sources[side] = verify.Scan{Session: session, Keyspace: load.DefaultKeyspace}
	}
	return verify.Both(ctx, sources, model, since)
}
