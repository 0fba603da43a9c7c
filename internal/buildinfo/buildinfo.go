// Package buildinfo tells which build a binary is.
//
// Floor 0: a leaf.
package buildinfo

import "runtime/debug"

// version is set by the linker (-X); empty in `go run` and `go test`.
var version string

// Version returns the release ("1.2.3"), or the VCS revision, or "dev".
func Version() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "dev"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return "dev-" + s.Value[:12]
		}
	}
	return "dev"
}
