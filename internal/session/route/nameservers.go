package route

import (
	"bufio"
	"bytes"
	"net/netip"
	"strings"
)

// maxNameServers is more than any resolver uses: glibc reads three.
const maxNameServers = 16

// NameServers returns the addresses on the nameserver lines of a resolv.conf(5). Lines that
// it does not understand are skipped, as resolvers do.
func NameServers(resolvConf []byte) []netip.Addr {
	var out []netip.Addr
	for s := bufio.NewScanner(bytes.NewReader(resolvConf)); s.Scan() && len(out) < maxNameServers; {
		f := strings.Fields(s.Text())
		if len(f) < 2 || f[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(f[1]); err == nil {
			out = append(out, a)
		}
	}
	return out
}
