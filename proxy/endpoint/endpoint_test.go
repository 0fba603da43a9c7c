package endpoint

import (
	"net/netip"
	"testing"
)

func TestHostIDsAndAddressesAreToldApart(t *testing.T) {
	t.Parallel()
	for _, id := range []string{"6f2c4c1e-0c6e-4d41-8b0e-52c2f5a9b0c1", "00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-ffff0a000001"} {
		e, err := FromHostID(id)
		if err != nil || !IsHostID(e) || Name(e) != id {
			t.Errorf("%s: %v, %v, name %q", id, e, err, Name(e))
		}
	}
	for _, addr := range []string{"10.0.0.1:9042", "[::1]:9042", "[6f2c:4c1e::1]:9042"} {
		e := netip.MustParseAddrPort(addr)
		if IsHostID(e) || Name(e) != addr {
			t.Errorf("%s: taken for a host id, name %q", addr, Name(e))
		}
	}
	if (IsHostID(netip.AddrPort{})) {
		t.Error("no address is taken for a host id")
	}
	for _, bad := range []string{"", "10.0.0.1", "6f2c4c1e-0c6e-4d41-8b0e-52c2f5a9b0c", "6f2c4c1e-0c6e-4d41-8b0e-52c2f5a9b0c11", "zf2c4c1e-0c6e-4d41-8b0e-52c2f5a9b0c1"} {
		if e, err := FromHostID(bad); err == nil {
			t.Errorf("%q was taken for %v", bad, e)
		}
	}
}
