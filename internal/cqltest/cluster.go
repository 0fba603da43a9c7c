package cqltest

import (
	"fmt"
	"math/big"
	"net/netip"
	"testing"
)

// Cluster is several nodes that name each other in system.peers. As with a
// real one all listen on the same port, so each has its own address.
type Cluster struct{ Nodes []*Node }

// StartCluster starts count nodes on first, first+1, ... and one port that is
// free on all of them; one token each, evenly spread. opts.Addr, HostID and
// Tokens are ignored.
func StartCluster(t testing.TB, first string, count int, opts Options) *Cluster {
	t.Helper()
	ip, err := netip.ParseAddr(first)
	if err != nil {
		t.Fatalf("start fake cluster: %v", err)
	}
	c := &Cluster{}
	step := new(big.Int).Div(new(big.Int).Lsh(big.NewInt(1), 64), big.NewInt(int64(count)))
	for i := range count {
		o := opts
		token := new(big.Int).Mul(step, big.NewInt(int64(i)))
		token.Sub(token, new(big.Int).Lsh(big.NewInt(1), 63))
		o.Tokens = []string{token.String()}
		o.Addr, o.HostID = fmt.Sprintf("%s:0", ip), [16]byte{}
		c.Nodes = append(c.Nodes, newNode(t, o))
		ip = ip.Next()
	}
	// The port that is free for the first node may be taken on another address.
	for range 50 {
		if err = c.listen(); err == nil {
			break
		}
	}
	if err != nil {
		t.Fatalf("start fake cluster: %v", err)
	}
	for i, n := range c.Nodes {
		n.mu.Lock()
		n.peers = append(append(n.peers, c.Nodes[:i]...), c.Nodes[i+1:]...)
		n.mu.Unlock()
	}
	return c
}

func (c *Cluster) listen() error {
	for i, n := range c.Nodes {
		if i > 0 {
			n.opts.Addr = netip.AddrPortFrom(netip.MustParseAddrPort(n.opts.Addr).Addr(), c.Nodes[0].Addr().Port()).String()
		}
		if err := n.listen(); err != nil {
			for _, started := range c.Nodes[:i] {
				started.RefuseConnections()
				started.mu.Lock()
				started.addr = netip.AddrPort{}
				started.mu.Unlock()
			}
			return err
		}
	}
	return nil
}

// ContactPoints are the nodes' addresses without the port.
func (c *Cluster) ContactPoints() []string {
	out := make([]string, len(c.Nodes))
	for i, n := range c.Nodes {
		out[i] = n.Host()
	}
	return out
}

// Port is the port of all nodes.
func (c *Cluster) Port() int { return c.Nodes[0].Port() }
