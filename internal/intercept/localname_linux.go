//go:build amd64 || arm64

package intercept

import (
	"strings"

	"golang.org/x/sys/unix"
)

// resolverSockets begin the paths of the services that a C library asks before it sends a
// DNS query of its own: nscd(8), and systemd-resolved(8) with its varlink socket
// io.systemd.Resolve.
var resolverSockets = []string{
	"/run/nscd/", "/var/run/nscd/",
	"/run/systemd/resolve/", "/var/run/systemd/resolve/",
}

// connectUnix serves a connect to a Unix socket: services that would resolve names as the
// laptop does look absent while names belong to the target. The C library falls back to DNS
// then.
func (c *call) connectUnix(sockaddr []byte) {
	if c.outside() {
		c.pass()
		return
	}
	name := unixName(sockaddr)
	for _, prefix := range resolverSockets {
		if strings.HasPrefix(name, prefix) && c.network.ResolvesNames() {
			c.fail(unix.ECONNREFUSED)
			return
		}
	}
	c.dialUnix(name)
}
