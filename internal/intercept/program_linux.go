//go:build amd64 || arm64

package intercept

import (
	"bytes"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// outside says whether the caller is a program that is not part of the session. It is asked anew for each
// call, since a process may have become another program since its last.
func (c *call) outside() bool { return c.isOutside != nil && c.isOutside(program(c.tid())) }

// isOwnPort says whether a TCP address belongs to a tool of the laptop.
func (c *call) isOwnPort(addr netip.AddrPort) bool {
	return c.ownPort != nil && c.ownPort(program(c.tid()), addr)
}

// program is what a thread's process runs. What can't be read is empty.
type program int

func (p program) path(file string) string { return "/proc/" + strconv.Itoa(int(p)) + "/" + file }

// File implements [Program].
func (p program) File() string {
	name, err := os.Readlink(p.path("exe"))
	if err != nil {
		return ""
	}
	// A file that was replaced while it runs, as a build does.
	return strings.TrimSuffix(name, " (deleted)")
}

// Name implements [Program].
func (p program) Name() string {
	tgid, err := processOf(int(p))
	if err != nil {
		return ""
	}
	b, _ := os.ReadFile(program(tgid).path("comm"))
	return strings.TrimSuffix(string(b), "\n")
}

// Args implements [Program].
func (p program) Args() []string { return p.strings("cmdline") }

// Environ implements [Program].
func (p program) Environ() []string { return p.strings("environ") }

func (p program) strings(file string) []string {
	b, err := os.ReadFile(p.path(file))
	if err != nil || len(b) == 0 {
		return nil
	}
	var out []string
	for part := range bytes.SplitSeq(bytes.TrimSuffix(b, []byte{0}), []byte{0}) {
		out = append(out, string(part))
	}
	return out
}
