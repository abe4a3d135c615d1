// Package version tells which version of the program runs.
package version

import (
	"runtime/debug"
	"strings"
)

// version is set by the linker in release builds (-X ...version.version=v1.2.3).
var version string

// String returns the version without a leading v, such as "1.2.3", in characters that an
// image tag may have; "dev" for a build that does not know its version.
func String() string {
	v := version
	if v == "" {
		if info, ok := debug.ReadBuildInfo(); ok {
			v = info.Main.Version
		}
	}
	return clean(v)
}

func clean(v string) string {
	if v == "" || v == "(devel)" {
		return "dev"
	}
	v = strings.Map(func(c rune) rune {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '_', c == '-':
			return c
		}
		return '-'
	}, v)
	if len(v) > 1 && v[0] == 'v' && v[1] >= '0' && v[1] <= '9' {
		v = v[1:]
	}
	return v
}
