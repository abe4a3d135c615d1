package route

import (
	"errors"
	"net/netip"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/intercept"
)

// network returns everything remote, with changes.
func network(change ...func(*config.Network)) config.Network {
	n := config.Network{
		Outgoing: config.Outgoing{TCP: true, UDP: true},
		DNS:      config.DNS{Enabled: true},
		IPv6:     true,
	}
	for _, f := range change {
		f(&n)
	}
	return n
}

func outgoingOff(n *config.Network)     { n.Outgoing.TCP, n.Outgoing.UDP = false, false }
func tcpOff(n *config.Network)          { n.Outgoing.TCP = false }
func udpOff(n *config.Network)          { n.Outgoing.UDP = false }
func dnsOff(n *config.Network)          { n.DNS.Enabled = false }
func ignoreLocalhost(n *config.Network) { n.Outgoing.IgnoreLocalhost = true }
func ipv6Off(n *config.Network)         { n.IPv6 = false }

func newTable(t *testing.T, n config.Network) *Table {
	t.Helper()
	table, err := New(n, NameServers([]byte("nameserver 192.168.1.1\nnameserver 2001:db8::53\n")))
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func TestRoute(t *testing.T) {
	const (
		tcp, udp                       = intercept.TCP, intercept.UDP
		local, remote, resolve, refuse = intercept.Local, intercept.Remote, intercept.Resolve, intercept.Refuse
	)
	type change = []func(*config.Network)
	for _, tt := range []struct {
		name   string
		change change
		proto  intercept.Protocol
		dst    string
		want   intercept.Verdict
	}{
		{"tcp goes to the target", nil, tcp, "10.0.0.1:80", remote},
		{"udp goes to the target", nil, udp, "10.0.0.1:123", remote},
		{"ipv6 goes to the target", nil, tcp, "[2001:db8::1]:80", remote},
		{"mapped is ipv4", change{ipv6Off}, tcp, "[::ffff:10.0.0.1]:80", remote},
		{"metadata service is the target's", nil, tcp, "169.254.169.254:80", remote},
		{"outgoing off", change{outgoingOff}, tcp, "10.0.0.1:80", local},
		{"outgoing off, udp", change{outgoingOff}, udp, "10.0.0.1:123", local},
		{"only tcp off", change{tcpOff}, tcp, "10.0.0.1:80", local},
		{"only tcp off, udp", change{tcpOff}, udp, "10.0.0.1:80", remote},
		{"only udp off", change{udpOff}, udp, "10.0.0.1:80", local},
		{"only udp off, tcp", change{udpOff}, tcp, "10.0.0.1:80", remote},
		{"unknown protocol", nil, intercept.Protocol(9), "10.0.0.1:80", local},

		{"loopback is the pod's", nil, tcp, "127.0.0.1:5432", remote},
		{"loopback 6 is the pod's", nil, tcp, "[::1]:5432", remote},
		{"loopback, outgoing off", change{outgoingOff}, tcp, "127.0.0.1:5432", local},
		{"own listener", nil, tcp, "127.0.0.1:8080", local},
		{"own listener, other loopback address", nil, tcp, "127.0.0.9:8080", local},
		{"own listener 6", nil, tcp, "[::1]:8080", local},
		{"own listener 6, ipv6 off", change{ipv6Off}, tcp, "[::1]:8080", local},
		{"own port elsewhere", nil, tcp, "10.0.0.1:8080", remote},
		{"own tcp port over udp", nil, udp, "127.0.0.1:8080", remote},
		{"ignore_localhost", change{ignoreLocalhost}, tcp, "127.0.0.1:5432", local},
		{"ignore_localhost, udp", change{ignoreLocalhost}, udp, "[::1]:5432", local},
		{"ignore_localhost elsewhere", change{ignoreLocalhost}, tcp, "10.0.0.1:5432", remote},

		{"port 0", nil, udp, "10.0.0.1:0", local},
		{"unspecified", nil, tcp, "0.0.0.0:80", local},
		{"unspecified 6", nil, tcp, "[::]:80", local},
		{"multicast", nil, udp, "224.0.0.251:5353", local},
		{"multicast 6", nil, udp, "[ff02::fb]:5353", local},
		{"multicast dns port", nil, udp, "224.0.0.251:53", local},
		{"broadcast", nil, udp, "255.255.255.255:67", local},
		{"link-local 6", nil, tcp, "[fe80::1%eth0]:80", local},

		{"ipv6 off", change{ipv6Off}, tcp, "[2001:db8::1]:80", refuse},
		{"ipv6 off, loopback", change{ipv6Off}, tcp, "[::1]:80", refuse},
		{"ipv6 off, outgoing off", change{ipv6Off, outgoingOff}, tcp, "[2001:db8::1]:80", local},

		{"dns", nil, udp, "10.96.0.10:53", resolve},
		{"dns over tcp", nil, tcp, "8.8.8.8:53", resolve},
		{"dns stub", nil, udp, "127.0.0.53:53", resolve},
		{"dns over ipv6 with ipv6 off", change{ipv6Off}, udp, "[2001:db8::53]:53", resolve},
		{"dns remote, outgoing off", change{outgoingOff}, udp, "192.168.1.1:53", resolve},
		{"dns remote, ignore_localhost", change{ignoreLocalhost}, udp, "127.0.0.53:53", resolve},
		{"dns off, own server", change{dnsOff}, udp, "192.168.1.1:53", local},
		{"dns off, own server over tcp", change{dnsOff}, tcp, "192.168.1.1:53", local},
		{"dns off, own link-local server", change{dnsOff}, udp, "[fe80::53%eth0]:53", local},
		{"dns off, own ipv6 server, ipv6 off", change{dnsOff, ipv6Off}, udp, "[2001:db8::53]:53", local},
		{"dns off, stub", change{dnsOff}, udp, "127.0.0.53:53", local},
		{"dns off, other server", change{dnsOff}, udp, "10.96.0.10:53", remote},
		{"dns off, other server, outgoing off", change{dnsOff, outgoingOff}, udp, "10.96.0.10:53", local},
	} {
		t.Run(tt.name, func(t *testing.T) {
			table := newTable(t, network(tt.change...))
			table.Owns(8080)
			got, err := table.Route(tt.proto, netip.MustParseAddrPort(tt.dst))
			if got != tt.want {
				t.Errorf("Route(%v, %s) = %v, want %v", tt.proto, tt.dst, got, tt.want)
			}
			if refused := errors.Is(err, syscall.ENETUNREACH); refused != (tt.want == refuse) {
				t.Errorf("error %v for verdict %v", err, got)
			}
		})
	}
}

func TestDisowns(t *testing.T) {
	table := newTable(t, network())
	dst := netip.MustParseAddrPort("127.0.0.1:8080")
	for _, step := range []struct {
		do   func(uint16)
		want intercept.Verdict
	}{
		{func(uint16) {}, intercept.Remote},
		{table.Owns, intercept.Local},
		{table.Disowns, intercept.Remote},
	} {
		step.do(8080)
		if got, _ := table.Route(intercept.TCP, dst); got != step.want {
			t.Errorf("verdict %v, want %v", got, step.want)
		}
	}
}

func TestNameServers(t *testing.T) {
	in := "# nameserver 9.9.9.9\nsearch a b\nnameserver 10.0.0.1\nnameserver\t::1 \n nameserver fe80::1%eth0\nnameserver bad\nnameserver\noptions ndots:5"
	want := []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("::1"), netip.MustParseAddr("fe80::1%eth0")}
	if diff := cmp.Diff(want, NameServers([]byte(in)), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("name servers (-want +got):\n%s", diff)
	}
}

func FuzzNameServers(f *testing.F) {
	f.Add([]byte("nameserver 1.1.1.1\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		if got := NameServers(in); len(got) > maxNameServers {
			t.Fatalf("%d name servers", len(got))
		}
	})
}

// Datagrams to everybody in a network of the laptop mean that network; others may mean the target's.
func TestBroadcasts(t *testing.T) {
	table := newTable(t, network())
	table.LearnNetworks([]netip.Prefix{
		netip.MustParsePrefix("192.168.7.20/24"), netip.MustParsePrefix("172.16.9.1/12"), netip.MustParsePrefix("10.0.0.0/31"),
		netip.MustParsePrefix("10.1.1.1/32"), netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("2001:db8::1/64"),
	})
	for dst, want := range map[string]intercept.Verdict{
		"192.168.7.255:9999":       intercept.Local,
		"172.31.255.255:9999":      intercept.Local,
		"255.255.255.255:67":       intercept.Local,
		"239.255.255.250:1900":     intercept.Local,
		"224.0.0.251:5353":         intercept.Local,
		"[ff02::fb]:5353":          intercept.Local,
		"[::ffff:192.168.7.255]:9": intercept.Local,
		"192.168.7.254:9999":       intercept.Remote,
		"192.168.8.255:9999":       intercept.Remote,
		"172.16.255.255:9999":      intercept.Remote,
		"10.0.0.1:9999":            intercept.Remote,
		"10.1.1.1:9999":            intercept.Remote,
		"[2001:db8::ffff]:9999":    intercept.Remote,
	} {
		if got, err := table.Route(intercept.UDP, netip.MustParseAddrPort(dst)); got != want || err != nil {
			t.Errorf("%s: %v, %v, want %v", dst, got, err, want)
		}
	}
	if got, _ := table.Route(intercept.TCP, netip.MustParseAddrPort("192.168.7.255:80")); got != intercept.Remote {
		t.Errorf("a connection: %v", got)
	}
}
