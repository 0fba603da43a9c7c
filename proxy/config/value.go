package config

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/internal/secret"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// ReadMode is ZDM_READ_MODE.
type ReadMode uint8

// The read modes.
const (
	PrimaryOnly ReadMode = iota
	DualAsyncOnSecondary
)

// ClientCredentials says whose credentials clients send; the configured user is
// used on the other side.
type ClientCredentials uint8

// Same: clients' credentials are good on both sides, and used on both.
const (
	CredentialsTarget ClientCredentials = iota
	CredentialsOrigin
	CredentialsSame
)

func (c ClientCredentials) String() string { return credentialWords.text(c) }

// LogFormat is how log lines look.
type LogFormat uint8

// The log formats.
const (
	LogText LogFormat = iota
	LogJSON
)

// Log levels that slog does not name; ZDM knows them.
const (
	LevelTrace = slog.LevelDebug - 4
	LevelFatal = slog.LevelError + 4
	LevelPanic = slog.LevelError + 8
)

// ProtocolVersion is the version byte of the native protocol, without the
// direction bit: 2 to 5, 0x41 for DSE_V1, 0x42 for DSE_V2.
type ProtocolVersion uint8

// The protocol versions that settings may name.
const (
	Version2    ProtocolVersion = 2
	Version3    ProtocolVersion = 3
	Version4    ProtocolVersion = 4
	Version5    ProtocolVersion = 5
	VersionDSE1 ProtocolVersion = 0x41
	VersionDSE2 ProtocolVersion = 0x42
)

// versionsServed are those that clients may speak, where both clusters do.
var versionsServed = []ProtocolVersion{Version3, Version4, Version5, VersionDSE1, VersionDSE2}

func (v ProtocolVersion) String() string { return versionWords.text(v) }

// words are the texts of an enumeration, the canonical one of a value first.
// They are read in any case.
type words[T comparable] []named[T]

type named[T comparable] struct {
	name  string
	value T
}

func (w words[T]) text(v T) string {
	for _, e := range w {
		if e.value == v {
			return e.name
		}
	}
	return fmt.Sprint(v)
}

func (w words[T]) find(text string) (T, bool) {
	for _, e := range w {
		if strings.EqualFold(e.name, text) {
			return e.value, true
		}
	}
	var zero T
	return zero, false
}

// canonical lists each value's first name.
func (w words[T]) canonical() string {
	var names []string
	var seen []T
	for _, e := range w {
		if !slices.Contains(seen, e.value) {
			names, seen = append(names, e.name), append(seen, e.value)
		}
	}
	return strings.Join(names, ", ")
}

var (
	sideWords       = words[phase.Side]{{"ORIGIN", phase.Origin}, {"TARGET", phase.Target}}
	readModeWords   = words[ReadMode]{{"PRIMARY_ONLY", PrimaryOnly}, {"DUAL_ASYNC_ON_SECONDARY", DualAsyncOnSecondary}}
	credentialWords = words[ClientCredentials]{{"target", CredentialsTarget}, {"origin", CredentialsOrigin}, {"same", CredentialsSame}}
	formatWords     = words[LogFormat]{{"text", LogText}, {"json", LogJSON}}
	levelWords      = words[slog.Level]{{"PANIC", LevelPanic}, {"FATAL", LevelFatal}, {"ERROR", slog.LevelError},
		{"WARN", slog.LevelWarn}, {"WARNING", slog.LevelWarn}, {"INFO", slog.LevelInfo}, {"DEBUG", slog.LevelDebug}, {"TRACE", LevelTrace}}
	versionWords = words[ProtocolVersion]{{"2", Version2}, {"v2", Version2}, {"3", Version3}, {"v3", Version3},
		{"4", Version4}, {"v4", Version4}, {"5", Version5}, {"v5", Version5},
		{"DseV1", VersionDSE1}, {"Dse_V1", VersionDSE1}, {"DseV2", VersionDSE2}, {"Dse_V2", VersionDSE2}}
	phaseWords = func() words[phase.Phase] {
		w := make(words[phase.Phase], len(phase.All))
		for i, p := range phase.All {
			w[i] = named[phase.Phase]{p.String(), p}
		}
		return w
	}()
)

// value is one setting within one Config. parse gets trimmed text that is not
// empty; its error says what is wrong and what to do, without the name. text is
// canonical, and "" for what is not set.
type value struct {
	parse func(text string) error
	text  func() string
}

func textValue(p *string) value {
	return value{
		parse: func(t string) error { *p = t; return nil },
		text:  func() string { return *p },
	}
}

func secretValue(p *secret.String) value {
	return value{
		parse: func(t string) error { *p = secret.New(t); return nil },
		text:  p.Reveal,
	}
}

func boolValue(p *bool) value {
	return value{
		parse: func(t string) error {
			b, err := strconv.ParseBool(t)
			if err != nil {
				return fmt.Errorf("%q is not a switch; give true or false", t)
			}
			*p = b
			return nil
		},
		text: func() string { return strconv.FormatBool(*p) },
	}
}

func intValue(p *int, lo, hi int, advice string) value {
	return value{
		parse: func(t string) error {
			n, err := strconv.Atoi(t)
			if err != nil {
				return fmt.Errorf("%q is not a whole number; %s", t, advice)
			}
			if err := within(t, float64(n), float64(lo), float64(hi), advice); err != nil {
				return err
			}
			*p = n
			return nil
		},
		text: func() string { return strconv.Itoa(*p) },
	}
}

func sizeValue(p *int64, lo, hi int64, zero bool, advice string) value {
	return value{
		parse: func(t string) error {
			n, err := strconv.ParseInt(t, 10, 64)
			if err != nil {
				return fmt.Errorf("%q is not a whole number; %s", t, advice)
			}
			if n != 0 || !zero {
				if err := within(t, float64(n), float64(lo), float64(hi), advice); err != nil {
					return err
				}
			}
			*p = n
			return nil
		},
		text: func() string { return strconv.FormatInt(*p, 10) },
	}
}

func within(text string, n, lo, hi float64, advice string) error {
	switch {
	case n < lo:
		return fmt.Errorf("%s is below %s; %s", text, number(lo), advice)
	case n > hi:
		return fmt.Errorf("%s is above %s; %s", text, number(hi), advice)
	}
	return nil
}

func number(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }

func floatValue(p *float64, lo, hi float64, advice string) value {
	return value{
		parse: func(t string) error {
			f, err := strconv.ParseFloat(t, 64)
			if err != nil || f != f {
				return fmt.Errorf("%q is not a number; %s", t, advice)
			}
			if err := within(t, f, lo, hi, advice); err != nil {
				return err
			}
			*p = f
			return nil
		},
		text: func() string { return number(*p) },
	}
}

func millisValue(p *time.Duration, lo, hi int, advice string) value {
	n := int(p.Milliseconds())
	v := intValue(&n, lo, hi, advice)
	return value{
		parse: func(t string) error {
			if err := v.parse(t); err != nil {
				return err
			}
			*p = time.Duration(n) * time.Millisecond
			return nil
		},
		text: v.text,
	}
}

func wordValue[T comparable](p *T, w words[T]) value {
	return value{
		parse: func(t string) error {
			v, ok := w.find(t)
			if !ok {
				return fmt.Errorf("%q is not known; give one of %s", t, w.canonical())
			}
			*p = v
			return nil
		},
		text: func() string {
			if i := slices.IndexFunc(w, func(e named[T]) bool { return e.value == *p }); i >= 0 {
				return w[i].name
			}
			return ""
		},
	}
}

// listValue reads CSV: blanks around entries are dropped, and so are empty
// entries. one reads an entry; its error comes without the setting's name.
func listValue[T any](p *[]T, one func(string) (T, error), show func(T) string) value {
	return value{
		parse: func(t string) error {
			var out []T
			for _, entry := range strings.Split(t, ",") {
				if entry = strings.TrimSpace(entry); entry == "" {
					continue
				}
				v, err := one(entry)
				if err != nil {
					return err
				}
				out = append(out, v)
			}
			if len(out) == 0 {
				return fmt.Errorf("%q holds no entry; give at least one, separated by commas", t)
			}
			*p = out
			return nil
		},
		text: func() string {
			shown := make([]string, len(*p))
			for i, v := range *p {
				shown[i] = show(v)
			}
			return strings.Join(shown, ", ")
		},
	}
}

func hostsValue(p *[]string) value {
	return listValue(p, func(t string) (string, error) {
		if _, err := netip.ParseAddr(t); err != nil && strings.ContainsAny(t, ":/ []") {
			return "", fmt.Errorf("%q is not a host; give host names or addresses without a port, which has its own setting", t)
		}
		return t, nil
	}, func(t string) string { return t })
}

func addressesValue(p *[]netip.Addr) value {
	return listValue(p, func(t string) (netip.Addr, error) {
		addr, err := netip.ParseAddr(t)
		if err != nil || addr.IsUnspecified() {
			return addr, fmt.Errorf("%q is not an IP address that a driver could use; give one for each proxy", t)
		}
		return addr, nil
	}, netip.Addr.String)
}

func versionsValue(p *[]ProtocolVersion) value {
	return listValue(p, func(t string) (ProtocolVersion, error) {
		v, ok := versionWords.find(t)
		if !ok {
			return 0, fmt.Errorf("%q is not known; give some of %s", t, versionWords.canonical())
		}
		return v, nil
	}, ProtocolVersion.String)
}

// bucketsValue reads rising milliseconds, fractions allowed.
func bucketsValue(p *[]time.Duration) value {
	v := listValue(p, func(t string) (time.Duration, error) {
		ms, err := strconv.ParseFloat(t, 64)
		if err != nil || !(ms > 0) || ms > maxMillis {
			return 0, fmt.Errorf("%q is not a latency; give milliseconds above 0", t)
		}
		return time.Duration(ms * float64(time.Millisecond)), nil
	}, func(d time.Duration) string { return number(float64(d) / float64(time.Millisecond)) })
	parse := v.parse
	v.parse = func(t string) error {
		before := *p
		if err := parse(t); err != nil {
			return err
		}
		for i := 1; i < len(*p); i++ {
			if (*p)[i] <= (*p)[i-1] {
				*p = before
				return fmt.Errorf("the latencies do not rise at entry %d; sort them, each once", i+1)
			}
		}
		return nil
	}
	return v
}
