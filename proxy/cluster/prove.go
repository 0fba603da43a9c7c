package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"

	"github.com/datastax/go-cassandra-native-protocol/message"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
	"github.com/zdmproject/terraform-provider-zdm/proxy/endpoint"
)

// Prove shows that the cluster can be used now: it opens a fresh connection,
// logs in as the configured user, and reads the schema. The error names the
// cause and the next thing to try.
func (c *Control) Prove(ctx context.Context) error {
	if err := c.prove(ctx); err != nil {
		return fmt.Errorf("prove %s: %s", c.cfg.Side, c.explain(err))
	}
	return nil
}

func (c *Control) prove(ctx context.Context) error {
	nodes, err := c.candidates(ctx, netip.AddrPort{})
	if err != nil {
		return err
	}
	var failed []error
	for _, node := range nodes {
		err := c.proveNode(ctx, node)
		if err == nil {
			return nil
		}
		failed = append(failed, fmt.Errorf("node %s: %w", endpoint.Name(node), err))
		var refused *NodeError
		if errors.As(err, &refused) || ctx.Err() != nil {
			break // the next node would say the same
		}
	}
	return errors.Join(failed...)
}

func (c *Control) proveNode(ctx context.Context, node netip.AddrPort) error {
	ctx, cancel := context.WithTimeoutCause(ctx, c.cfg.ConnectTimeout, timeout("no proof", c.cfg.ConnectTimeout))
	defer cancel()
	l, err := c.logIn(ctx, node, func(message.Message, []byte) {})
	if err != nil {
		return err
	}
	defer l.close()
	return l.readSchema(ctx)
}

// explain renders an error in one line and ends with what to do about it.
func (c *Control) explain(err error) string {
	text := strings.ReplaceAll(err.Error(), "\n", "; ")
	if advice := c.advice(err); advice != "" {
		text += "; " + advice
	}
	return text
}

// advice is the next thing to try, in the words of the settings.
func (c *Control) advice(err error) string {
	side := c.cfg.Side.String()
	if text := c.cfg.Advise(err); text != "" {
		return text
	}
	var (
		node    *NodeError
		lookup  *net.DNSError
		dialing *net.OpError
	)
	switch {
	case errors.Is(err, ErrLoginNeeded):
		return fmt.Sprintf("set %s_username and %s_password", side, side)
	case VersionRefused(err), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Sprintf("check that port %d of %s speaks CQL, and whether it wants TLS (%s_tls_*)", c.cfg.Port, side, side)
	case errors.As(err, &node) && node.Code == frame.ErrBadCredentials:
		return fmt.Sprintf("correct %s_username and %s_password", side, side)
	case errors.As(err, &node) && node.Code == frame.ErrUnauthorized:
		return fmt.Sprintf("grant %q what it lacks, or set another %s_username", c.cfg.Username, side)
	case errors.As(err, &node):
		return fmt.Sprintf("look into the log of that %s node", side)
	case errors.As(err, &lookup):
		return fmt.Sprintf("correct %s_contact_points or the name service", side)
	case errors.As(err, &dialing), errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("start %s, or correct %s_contact_points and %s_port, or open the way there", side, side, side)
	}
	return ""
}
