package config

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/internal/secret"
)

// The makers of rows. at gives the row's field of a Config; a row that no part
// of the proxy reads has none (nil), is checked all the same, and its text is
// kept in Config.accepted.

func tie[T any](name string, at func(*Config) *T, of func(*T) value) func(*Config) value {
	if at != nil {
		return func(c *Config) value { return of(at(c)) }
	}
	key := strings.ToLower(name)
	return func(c *Config) value {
		v := of(new(T))
		return value{
			parse: func(t string) error {
				err := v.parse(t)
				if err == nil {
					c.accepted[key] = v.text()
				}
				return err
			},
			text: func() string { return c.accepted[key] },
		}
	}
}

func text(name, def, doc string, at func(*Config) *string) Setting {
	return Setting{Name: name, Type: TypeText, Default: def, ZDM: true, Support: Honoured, Doc: doc,
		bind: tie(name, at, textValue)}
}

func hidden(name, doc string, at func(*Config) *secret.String) Setting {
	return Setting{Name: name, Type: TypeText, Secret: true, ZDM: true, Support: Honoured, Doc: doc,
		bind: tie(name, at, secretValue)}
}

func boolean(name string, def bool, doc string, at func(*Config) *bool) Setting {
	return Setting{Name: name, Type: TypeBool, Default: strconv.FormatBool(def), Bounds: "true, false", ZDM: true, Support: Honoured, Doc: doc,
		bind: tie(name, at, boolValue)}
}

func integer(name string, def, lo, hi int, doc string, at func(*Config) *int) Setting {
	bounds := fmt.Sprintf("%d to %d", lo, hi)
	return Setting{Name: name, Type: TypeInt, Default: strconv.Itoa(def), Bounds: bounds, ZDM: true, Support: Honoured, Doc: doc,
		bind: tie(name, at, func(p *int) value { return intValue(p, lo, hi, "give a number from "+bounds) })}
}

// size is a number of bytes; 0 is allowed if it is the default.
func size(name string, def, lo, hi int64, doc string, at func(*Config) *int64) Setting {
	bounds := fmt.Sprintf("%d to %d", lo, hi)
	if def == 0 {
		bounds += ", or 0"
	}
	return Setting{Name: name, Type: TypeInt, Default: strconv.FormatInt(def, 10), Bounds: bounds, ZDM: true, Support: Honoured, Doc: doc,
		bind: tie(name, at, func(p *int64) value { return sizeValue(p, lo, hi, def == 0, "give bytes, from "+bounds) })}
}

func port(name string, def, lo int, doc string, at func(*Config) *int) Setting {
	s := integer(name, def, lo, 65535, doc, at)
	s.bind = tie(name, at, func(p *int) value { return intValue(p, lo, 65535, "give a TCP port") })
	return s
}

func millis(name string, def int, doc string, at func(*Config) *time.Duration) Setting {
	return Setting{Name: name, Type: TypeMillis, Default: strconv.Itoa(def), Bounds: fmt.Sprintf("1 to %d", maxMillis), ZDM: true, Support: Honoured, Doc: doc,
		bind: tie(name, at, func(p *time.Duration) value {
			return millisValue(p, 1, maxMillis, "give milliseconds, from 1 to a day")
		})}
}

func factor(name string, def, lo, hi float64, doc string, at func(*Config) *float64) Setting {
	bounds := number(lo) + " to " + number(hi)
	return Setting{Name: name, Type: TypeFloat, Default: number(def), Bounds: bounds, ZDM: true, Support: Honoured, Doc: doc,
		bind: tie(name, at, func(p *float64) value { return floatValue(p, lo, hi, "give a number from "+bounds) })}
}

func word[T comparable](name, def, doc string, w words[T], at func(*Config) *T) Setting {
	return Setting{Name: name, Type: TypeWord, Default: def, Bounds: w.canonical(), ZDM: true, Support: Honoured, Doc: doc,
		bind: tie(name, at, func(p *T) value { return wordValue(p, w) })}
}

func list(name, def, doc, bounds string, bind func(*Config) value) Setting {
	return Setting{Name: name, Type: TypeList, Default: def, Bounds: bounds, ZDM: true, Support: Honoured, Doc: doc, bind: bind}
}

// The changes to rows.

// ours marks what ZDM Proxy does not have.
func ours(s Setting) Setting {
	s.ZDM = false
	return s
}

// hot: a proxy that serves takes it, without a new process.
func hot(s Setting) Setting {
	s.Hot = true
	return s
}

func accepted(s Setting) Setting {
	s.Support = Accepted
	return s
}
