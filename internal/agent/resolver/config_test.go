package resolver

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

func addrs(ss ...string) []netip.AddrPort {
	var out []netip.AddrPort
	for _, s := range ss {
		out = append(out, netip.MustParseAddrPort(s))
	}
	return out
}

func TestParseConfig(t *testing.T) {
	defaults := func(change func(*config)) config {
		c := config{servers: addrs("127.0.0.1:53"), ndots: 1, timeout: 5 * time.Second, attempts: 2}
		change(&c)
		return c
	}
	for name, tt := range map[string]struct {
		text, hostname string
		want           config
	}{
		"empty": {want: defaults(func(*config) {})},
		"a pod": {
			text: "search shop.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n",
			want: defaults(func(c *config) {
				c.servers, c.ndots = addrs("10.96.0.10:53"), 5
				c.search = []string{"shop.svc.cluster.local.", "svc.cluster.local.", "cluster.local."}
			}),
		},
		"everything": {
			text: "# comment\n; comment\nnameserver fd00::a\nnameserver fe80::1%eth0\nnameserver nonsense\nnameserver ::ffff:10.0.0.1 # trailing\nnameserver 10.0.0.9\n" +
				"domain Old.example\nsearch New.Example.  x..y ok.\noptions ndots:99 timeout:0 attempts:77 rotate use-vc edns0 no-aaaa unknown:1 ndots:x\noptions\n",
			want: config{
				servers: addrs("[fd00::a]:53", "[fe80::1%eth0]:53", "10.0.0.1:53"), search: []string{"new.example.", "ok."},
				ndots: 15, timeout: time.Second, attempts: 5, rotate: true, useVC: true, edns0: true, noAAAA: true,
			},
		},
		"domain after search":         {text: "search a b\ndomain c\n", want: defaults(func(c *config) { c.search = []string{"c."} })},
		"the host name's domain":      {hostname: "web.example.com", want: defaults(func(c *config) { c.search = []string{"example.com."} })},
		"host name without a domain":  {hostname: "web", want: defaults(func(*config) {})},
		"search beats the host name":  {text: "search .", hostname: "web.example.com", want: defaults(func(c *config) { c.search = []string{"."} })},
		"no newline, carriage return": {text: "nameserver 10.0.0.1\r\noptions ndots:3", want: defaults(func(c *config) { c.servers, c.ndots = addrs("10.0.0.1:53"), 3 })},
	} {
		t.Run(name, func(t *testing.T) {
			got := parseConfig(tt.text, tt.hostname, 53)
			opts := cmp.Options{cmp.AllowUnexported(config{}), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })}
			if diff := cmp.Diff(tt.want, got, opts); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestCandidates(t *testing.T) {
	pod := []string{"ns.svc.cluster.local.", "svc.cluster.local.", "cluster.local."}
	expanded := func(n string) string {
		return n + pod[0] + " " + n + pod[1] + " " + n + pod[2]
	}
	for name, tt := range map[string]struct {
		search []string
		ndots  int
		asked  string
		want   string // "!" marks the one that decides
	}{
		"short":                     {pod, 5, "shop.", expanded("shop.") + " shop."},
		"service and namespace":     {pod, 5, "shop.prod.", expanded("shop.prod.") + " shop.prod."},
		"external":                  {pod, 5, "api.example.com.", expanded("api.example.com.") + " api.example.com."},
		"as many dots as ndots":     {pod, 2, "a.b.c.", "a.b.c.! " + expanded("a.b.c.")},
		"expanded already":          {pod, 5, "shop.ns.svc.cluster.local.", "shop.ns.svc.cluster.local.!"},
		"expanded, other case":      {pod, 5, "Shop.NS.svc.Cluster.local.", "Shop.NS.svc.Cluster.local.!"},
		"almost expanded":           {pod, 5, "xcluster.local.", expanded("xcluster.local.") + " xcluster.local."},
		"the domain itself":         {pod, 5, "cluster.local.", "cluster.local.!"},
		"reverse":                   {pod, 9, "4.3.2.1.in-addr.arpa.", "4.3.2.1.in-addr.arpa.!"},
		"root":                      {pod, 5, ".", ".!"},
		"no search":                 {nil, 1, "shop.", "shop."},
		"root in the list":          {[]string{"a.", ".", "b."}, 1, "shop.", "shop.a. shop. shop.b."},
		"root in the list, dots":    {[]string{"a.", "."}, 0, "shop.", "shop.! shop.a."},
		"too long for one domain":   {[]string{strings.Repeat("x.", 120), "b."}, 5, "shop-of-many-letters.", "shop-of-many-letters.b. shop-of-many-letters."},
		"an escaped dot is no dot":  {[]string{"a."}, 1, `a\.b.`, `a\.b.a. a\.b.`},
		"ndots of zero, short name": {[]string{"a."}, 0, "shop.", "shop.! shop.a."},
	} {
		t.Run(name, func(t *testing.T) {
			c := config{search: tt.search, ndots: tt.ndots}
			var got []string
			for _, n := range c.candidates(tt.asked) {
				s := n.name
				if n.decides {
					s += "!"
				}
				got = append(got, s)
			}
			if diff := cmp.Diff(tt.want, strings.Join(got, " ")); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestHosts(t *testing.T) {
	h := parseHosts("127.0.0.1 localhost\n# 9.9.9.9 no\n10.0.0.1 Web.example web # alias\n10.0.0.2 web\nfd00::1%eth0 web\n" +
		"::ffff:10.0.0.3 mapped\nbad name\n10.0.0.4\n10.0.0.1 later\n10.0.0.9 x..y ok\n")
	for name, tt := range map[string]struct {
		name  string
		qtype uint16
		want  []string
		found bool
	}{
		"addresses add up":      {"WEB.", dns.TypeA, []string{"WEB.\t0\tIN\tA\t10.0.0.1", "WEB.\t0\tIN\tA\t10.0.0.2"}, true},
		"v6":                    {"web.", dns.TypeAAAA, []string{"web.\t0\tIN\tAAAA\tfd00::1"}, true},
		"canonical":             {"web.example.", dns.TypeA, []string{"web.example.\t0\tIN\tA\t10.0.0.1"}, true},
		"the other family":      {"web.example.", dns.TypeAAAA, nil, true},
		"mapped":                {"mapped.", dns.TypeA, []string{"mapped.\t0\tIN\tA\t10.0.0.3"}, true},
		"comment":               {"no.", dns.TypeA, nil, false},
		"bad name beside":       {"ok.", dns.TypeA, []string{"ok.\t0\tIN\tA\t10.0.0.9"}, true},
		"other type":            {"web.", dns.TypeMX, nil, false},
		"reverse, first line":   {"1.0.0.10.in-addr.arpa.", dns.TypePTR, []string{"1.0.0.10.in-addr.arpa.\t0\tIN\tPTR\tWeb.example."}, true},
		"reverse v6, too short": {"1." + strings.Repeat("0.", 28) + "d.f.ip6.arpa.", dns.TypePTR, nil, false},
		"reverse v6":            {"1." + strings.Repeat("0.", 27) + "0.0.d.f.ip6.arpa.", dns.TypePTR, []string{"1." + strings.Repeat("0.", 27) + "0.0.d.f.ip6.arpa.\t0\tIN\tPTR\tweb."}, true},
		"reverse unknown":       {"8.8.8.8.in-addr.arpa.", dns.TypePTR, nil, false},
		"reverse nonsense":      {"8.8.8.in-addr.arpa.", dns.TypePTR, nil, false},
		"reverse loopback":      {"1.0.0.127.in-addr.arpa.", dns.TypePTR, []string{"1.0.0.127.in-addr.arpa.\t0\tIN\tPTR\tlocalhost."}, true},
		"localhost":             {"localhost.", dns.TypeA, []string{"localhost.\t0\tIN\tA\t127.0.0.1"}, true},
		"localhost v6":          {"LocalHost.", dns.TypeAAAA, []string{"LocalHost.\t0\tIN\tAAAA\t::1"}, true},
		"below localhost":       {"db.localhost.", dns.TypeA, []string{"db.localhost.\t0\tIN\tA\t127.0.0.1"}, true},
		"localhost, other type": {"localhost.", dns.TypeMX, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			rrs, found := h.answer(dns.Question{Name: tt.name, Qtype: tt.qtype, Qclass: dns.ClassINET})
			var got []string
			for _, rr := range rrs {
				got = append(got, rr.String())
			}
			if diff := cmp.Diff(tt.want, got); diff != "" || found != tt.found {
				t.Errorf("found = %t, want %t; (-want +got):\n%s", found, tt.found, diff)
			}
		})
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add("nameserver 1.2.3.4\nsearch a b\noptions ndots:5 timeout:1", "h.example", "shop.")
	f.Add("options ndots:-1\nsearch .\n#\n;\n\n ", "", `a\.b.`)
	f.Fuzz(func(t *testing.T, text, hostname, asked string) {
		c := parseConfig(text, hostname, 53)
		if n := len(c.servers); n < 1 || n > maxNameservers || len(c.search) > maxSearch || c.ndots < 0 || c.timeout <= 0 || c.attempts < 1 {
			t.Fatalf("config out of bounds: %+v", c)
		}
		if _, ok := dns.IsDomainName(asked); !ok || !dns.IsFqdn(asked) {
			return
		}
		seen := map[string]bool{}
		for _, n := range c.candidates(asked) {
			if !fits(n.name) {
				t.Fatalf("candidate %q is no name", n.name)
			}
			seen[n.name] = true
		}
		if !seen[asked] {
			t.Fatalf("the name itself is not among its candidates: %v", seen)
		}
	})
}

func FuzzParseHosts(f *testing.F) {
	f.Add("127.0.0.1 localhost # x\n::1 a b c\nfe80::1%eth0 y\n", "1.0.0.127.in-addr.arpa.")
	f.Fuzz(func(_ *testing.T, text, name string) {
		h := parseHosts(text)
		for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypePTR, dns.TypeMX} {
			h.answer(dns.Question{Name: name, Qtype: qtype, Qclass: dns.ClassINET})
		}
	})
}
