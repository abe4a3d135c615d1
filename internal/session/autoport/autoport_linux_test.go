package autoport

import (
	"net"
	"net/netip"
	"testing"
)

func TestChosen(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "[::1]", "0.0.0.0", "[::]"} {
		t.Run(host, func(t *testing.T) {
			network := "tcp4"
			if host[0] == '[' {
				network = "tcp6"
			}
			l, err := net.Listen(network, host+":0")
			if err != nil {
				t.Skip(err)
			}
			addr := l.Addr().(*net.TCPAddr).AddrPort()
			if chosen, err := Chosen(addr); !chosen || err != nil {
				t.Errorf("port 0 became %v: %v, %v, want chosen", addr, chosen, err)
			}
			other := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.9"), addr.Port())
			if chosen, _ := Chosen(other); chosen {
				t.Errorf("%v is nobody's", other)
			}
			_ = l.Close()
			// The same port again, asked for this time.
			if l, err = net.Listen(network, addr.String()); err != nil {
				t.Skip(err)
			}
			defer l.Close()
			if chosen, err := Chosen(addr); chosen || err != nil {
				t.Errorf("%v was asked for: %v, %v", addr, chosen, err)
			}
		})
	}
}

func FuzzScan(f *testing.F) {
	f.Add(request(netip.IPv6Loopback()))
	f.Add([]byte{16, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _, _ = scan(b, netip.MustParseAddrPort("127.0.0.1:80"))
	})
}
