package route

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/intercept"
)

func TestFilterOfConnections(t *testing.T) {
	const tcp, udp = intercept.TCP, intercept.UDP
	for _, tt := range []struct {
		entry string
		proto intercept.Protocol
		dst   string
		match bool
	}{
		{"10.1.0.0/16", tcp, "10.1.2.3:80", true},
		{"10.1.0.0/16", udp, "10.1.2.3:80", true},
		{"10.1.0.0/16", tcp, "10.2.2.3:80", false},
		{"10.1.2.3", tcp, "10.1.2.3:80", true},
		{"10.1.2.3", tcp, "10.1.2.4:80", false},
		{"10.1.2.3:5432", tcp, "10.1.2.3:5432", true},
		{"10.1.2.3:5432", tcp, "10.1.2.3:5433", false},
		{"tcp://10.1.2.3", udp, "10.1.2.3:80", false},
		{"udp://10.1.2.3", udp, "10.1.2.3:80", true},
		{"any://10.1.2.3", udp, "10.1.2.3:80", true},
		{"tcp://", tcp, "8.8.8.8:1", true},
		{"tcp://", udp, "8.8.8.8:1", false},
		{":6379", tcp, "8.8.8.8:6379", true},
		{":6379", tcp, "8.8.8.8:6380", false},
		{"0.0.0.0:80", tcp, "[2001:db8::1]:80", true},
		{"[2001:db8::]/32", tcp, "[2001:db8::1]:80", true},
		{"[2001:db8::1]:80", tcp, "[2001:db8::1]:80", true},
		{"10.1.2.3", tcp, "[::ffff:10.1.2.3]:80", true},
		{"postgres", tcp, "10.9.0.1:5432", true},
		{"POSTGRES.", tcp, "10.9.0.1:5432", true},
		{"postgres:5432", tcp, "10.9.0.1:5432", true},
		{"postgres:5432", tcp, "10.9.0.1:80", false},
		{"postgres", tcp, "10.9.0.2:5432", false},
		{"postgre", tcp, "10.9.0.1:5432", false},
		{"db.prod.svc.cluster.local", tcp, "10.9.0.1:5432", true},
		{"*.svc.cluster.local", tcp, "10.9.0.1:5432", true},
		{"*.svc.cluster.local", tcp, "10.9.0.2:5432", false},
		{"*.db.prod.svc.cluster.local", tcp, "10.9.0.1:5432", false},
	} {
		for _, side := range []string{"local", "remote"} {
			t.Run(fmt.Sprintf("%s %s to %v %s", side, tt.entry, tt.proto, tt.dst), func(t *testing.T) {
				f := &config.Filter{Local: []string{"203.0.113.9", tt.entry}}
				want := map[bool]intercept.Verdict{true: intercept.Local, false: intercept.Remote}[tt.match]
				if side == "remote" {
					f = &config.Filter{Remote: []string{"203.0.113.9", tt.entry}}
					want = map[bool]intercept.Verdict{false: intercept.Local, true: intercept.Remote}[tt.match]
				}
				table := newTable(t, network(func(n *config.Network) { n.Outgoing.Filter = f }))
				table.Learn("postgres", []netip.Addr{netip.MustParseAddr("10.9.0.1")})
				table.Learn("DB.prod.svc.cluster.local.", []netip.Addr{netip.MustParseAddr("10.9.0.1")})
				table.Learn("other.test", []netip.Addr{netip.MustParseAddr("10.9.0.2")})
				got, err := table.Route(tt.proto, netip.MustParseAddrPort(tt.dst))
				if got != want || err != nil {
					t.Errorf("verdict %v, %v, want %v", got, err, want)
				}
			})
		}
	}
}

// TestFilterChangesNothingElse: what is local, or the resolver's, without a filter stays so.
func TestFilterChangesNothingElse(t *testing.T) {
	everything := func(n *config.Network) { n.Outgoing.Filter = &config.Filter{Remote: []string{"any://"}} }
	for _, tt := range []struct {
		dst    string
		change func(*config.Network)
		want   intercept.Verdict
	}{
		{"127.0.0.1:8080", nil, intercept.Local},
		{"127.0.0.1:8081", ignoreLocalhost, intercept.Local},
		{"10.0.0.1:80", outgoingOff, intercept.Local},
		{"224.0.0.1:80", nil, intercept.Local},
		{"10.0.0.1:53", nil, intercept.Resolve},
		{"[2001:db8::1]:80", ipv6Off, intercept.Refuse},
	} {
		change := []func(*config.Network){everything}
		if tt.change != nil {
			change = append(change, tt.change)
		}
		table := newTable(t, network(change...))
		table.Owns(8080)
		if got, _ := table.Route(intercept.TCP, netip.MustParseAddrPort(tt.dst)); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.dst, got, tt.want)
		}
	}
	// With IPv6 off, what the filter keeps local is not refused.
	table := newTable(t, network(ipv6Off, func(n *config.Network) { n.Outgoing.Filter = &config.Filter{Local: []string{"[2001:db8::1]"}} }))
	if got, _ := table.Route(intercept.TCP, netip.MustParseAddrPort("[2001:db8::1]:80")); got != intercept.Local {
		t.Errorf("a local IPv6 destination: %v", got)
	}
}

func TestFilterOfNames(t *testing.T) {
	for _, tt := range []struct {
		entry, name string
		match       bool
	}{
		{"postgres", "postgres", true},
		{"postgres", "Postgres.", true},
		{"postgres:5432", "postgres", true},
		{"postgres", "postgres.prod", false},
		{"*.prod", "postgres.prod", true},
		{"*.prod", "prod", false},
		{"*.prod", "postgresprod", false},
		{"10.0.0.0/8", "postgres", false},
		{":5432", "postgres", false},
		{"0.0.0.0", "postgres", true},
	} {
		for _, side := range []string{"local", "remote"} {
			f := &config.Filter{Local: []string{tt.entry}}
			if side == "remote" {
				f = &config.Filter{Remote: []string{tt.entry}}
			}
			table := newTable(t, network(func(n *config.Network) { n.DNS.Filter = f }))
			if got, want := table.NameIsRemote(tt.name), tt.match == (side == "remote"); got != want {
				t.Errorf("%s %s: %s is remote: %v, want %v", side, tt.entry, tt.name, got, want)
			}
			off := newTable(t, network(dnsOff, func(n *config.Network) { n.DNS.Filter = f }))
			if off.NameIsRemote(tt.name) {
				t.Errorf("%s %s: %s is remote with DNS off", side, tt.entry, tt.name)
			}
		}
	}
}

// TestNamesWithDNSOff: the filter's names need the laptop's answers to pass by.
func TestNamesWithDNSOff(t *testing.T) {
	server := netip.MustParseAddrPort("192.168.1.1:53")
	for _, tt := range []struct {
		entry  string
		change func(*config.Network)
		want   intercept.Verdict
	}{
		{"postgres", dnsOff, intercept.Resolve},
		{"10.0.0.0/8", dnsOff, intercept.Local},
		{"postgres", outgoingOff, intercept.Local},
	} {
		table := newTable(t, network(dnsOff, tt.change, func(n *config.Network) { n.Outgoing.Filter = &config.Filter{Remote: []string{tt.entry}} }))
		if got, _ := table.Route(intercept.UDP, server); got != tt.want || table.ResolvesNames() != (tt.want == intercept.Resolve) {
			t.Errorf("%s: %v, resolves names %v, want %v", tt.entry, got, table.ResolvesNames(), tt.want)
		}
	}
}

func TestBookIsBounded(t *testing.T) {
	var b book
	for i := range maxAddresses + 10 {
		b.learn("n", []netip.Addr{netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})})
	}
	if len(b.names) != maxAddresses || len(b.order) != maxAddresses {
		t.Errorf("%d addresses, %d in order", len(b.names), len(b.order))
	}
	a := netip.MustParseAddr("192.0.2.1")
	for i := range maxNamesOfOne + 1 {
		b.learn(fmt.Sprint("n", i), []netip.Addr{a})
	}
	b.learn(strings.Repeat("x", maxLengthOfName+1), []netip.Addr{a})
	if got := b.of(a); len(got) != maxNamesOfOne || got[len(got)-1] != fmt.Sprint("n", maxNamesOfOne) {
		t.Errorf("names %v", got)
	}
}

func TestLearnHosts(t *testing.T) {
	table := newTable(t, network(func(n *config.Network) { n.Outgoing.Filter = &config.Filter{Local: []string{"printer"}} }))
	table.LearnHosts([]byte("# 192.0.2.1 printer\n192.0.2.2\tdesk printer # upstairs\nnonsense printer\n192.0.2.3\n"))
	for addr, want := range map[string]intercept.Verdict{
		"192.0.2.1:80": intercept.Remote, "192.0.2.2:80": intercept.Local, "192.0.2.3:80": intercept.Remote,
	} {
		if got, _ := table.Route(intercept.TCP, netip.MustParseAddrPort(addr)); got != want {
			t.Errorf("%s: %v, want %v", addr, got, want)
		}
	}
}

func TestUnreadableFilter(t *testing.T) {
	for _, n := range []config.Network{
		network(func(n *config.Network) { n.Outgoing.Filter = &config.Filter{Local: []string{"ftp://x"}} }),
		network(func(n *config.Network) { n.DNS.Filter = &config.Filter{Remote: []string{"tcp://x"}} }),
	} {
		if _, err := New(n, nil); err == nil || !strings.Contains(err.Error(), ".filter: ") {
			t.Errorf("error %v", err)
		}
	}
}

func TestRouteUnix(t *testing.T) {
	table := newTable(t, network(func(n *config.Network) { n.Outgoing.UnixStreams = []string{"^/run/(?!user)", "^shop-"} }))
	for name, want := range map[string]intercept.Verdict{
		"/run/docker.sock":      intercept.Remote,
		"/run/user/1000/bus":    intercept.Local,
		"/tmp/run/s":            intercept.Local,
		"@shop-control\x00\x01": intercept.Remote,
		"@other":                intercept.Local,
	} {
		if got := table.RouteUnix(name); got != want {
			t.Errorf("%q: %v, want %v", name, got, want)
		}
	}
	if got := newTable(t, network()).RouteUnix("/run/s"); got != intercept.Local {
		t.Errorf("without patterns: %v", got)
	}
	if _, err := New(network(func(n *config.Network) { n.Outgoing.UnixStreams = []string{"("} }), nil); err == nil {
		t.Error("a pattern that does not compile is taken")
	}
}
