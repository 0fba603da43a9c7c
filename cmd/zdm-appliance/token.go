package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/appliance/access"
	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
)

func makeToken(_ context.Context, c *call) error {
	name := c.flags.String("name", "", "who will use it, as the audit log names it (needed)")
	role := c.flags.String("role", string(adminapi.RoleRead), "`read` or write")
	life := c.flags.Duration("expires-in", 0, "how `long` it is good, for example 2160h; 0 for ever")
	if _, err := c.parse(0); err != nil {
		return err
	}
	var b [32]byte
	_, _ = rand.Read(b[:]) // it does not fail
	text := hex.EncodeToString(b[:])
	entry := fmt.Sprintf("  - name: %q\n    role: %s\n    sha256: %s\n", *name, *role, access.HashToken(text))
	if *life > 0 {
		entry += fmt.Sprintf("    expires: %s\n", time.Now().Add(*life).UTC().Format(time.RFC3339))
	}
	if _, err := access.Parse([]byte("tokens:\n" + entry)); err != nil {
		return fmt.Errorf("token: %w", err)
	}
	fmt.Fprintf(c.stderr, "The token is below, once: keep it where secrets are kept. The entry is for the file that serve -access-file names,\nunder \"tokens:\"; the agent reads it again by itself.\n\n%s\n", entry)
	_, err := fmt.Fprintln(c.stdout, text)
	return err
}
