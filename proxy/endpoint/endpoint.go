// Package endpoint tells where a node is: at an address, or behind a router that
// knows it by its host id.
//
// A node behind a router has no address that can be reached. So that all else
// can go on telling nodes apart by address, such a node's is its host id: 16
// bytes, like those of IPv6, with port 0, which no other node has.
//
// Floor 1. It does no I/O and has no goroutine.
package endpoint

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
)

// FromHostID is the address that stands for a host id.
func FromHostID(hostID string) (netip.AddrPort, error) {
	digits := strings.ReplaceAll(hostID, "-", "")
	var id [16]byte
	if n, err := hex.Decode(id[:], []byte(digits[:min(len(digits), 32)])); err != nil || n != 16 || len(digits) != 32 {
		return netip.AddrPort{}, fmt.Errorf("host id %q is not a UUID", hostID)
	}
	return netip.AddrPortFrom(netip.AddrFrom16(id), 0), nil
}

// IsHostID reports whether an address stands for a host id.
func IsHostID(e netip.AddrPort) bool { return e.Port() == 0 && e.Addr().Is6() }

// Name is what a node is called in logs, errors and metrics, and what it is
// dialled by: host:port, or the host id.
func Name(e netip.AddrPort) string {
	if !IsHostID(e) {
		return e.String()
	}
	id := e.Addr().As16()
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
}
