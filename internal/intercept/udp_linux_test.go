//go:build amd64 || arm64

package intercept

import (
	"testing"
)

func TestDatagramSemantics(t *testing.T) {
	for _, kind := range []string{"glibc", "musl static"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			port, port6 := serveUDP(t, "127.0.0.1:0"), serveUDP(t, "[::1]:0")
			local := serveUDP(t, "127.0.0.1:0")
			n := &fakeTarget{}
			r := launch(t, n, nil, cProgram(t, kind, "udp"), port, port6, local)
			r.succeed()
			eventually(t, "the sockets of the program are closed at the target too", func() bool {
				return n.openSockets() == 0 && r.udp.size() == 0
			})
		})
	}
}
