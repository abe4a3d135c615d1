package resolver

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

func message(t *testing.T, rcode int, answer, ns []string) *dns.Msg {
	t.Helper()
	m := &dns.Msg{MsgHdr: dns.MsgHdr{Rcode: rcode}}
	for _, l := range answer {
		rr, err := dns.NewRR(l)
		if err != nil {
			t.Fatal(err)
		}
		m.Answer = append(m.Answer, rr)
	}
	for _, l := range ns {
		rr, err := dns.NewRR(l)
		if err != nil {
			t.Fatal(err)
		}
		m.Ns = append(m.Ns, rr)
	}
	return m
}

func TestLifetime(t *testing.T) {
	soa := []string{"test. 60 IN SOA a. b. 1 2 3 4 20"}
	for name, tt := range map[string]struct {
		m    *dns.Msg
		want time.Duration
	}{
		"lowest TTL":         {message(t, 0, []string{"x. 60 IN CNAME y.", "y. 30 IN A 10.0.0.1"}, nil), 30 * time.Second},
		"bounded":            {message(t, 0, []string{"x. 999999 IN A 10.0.0.1"}, nil), time.Hour},
		"zero":               {message(t, 0, []string{"x. 0 IN A 10.0.0.1"}, nil), 0},
		"NXDOMAIN":           {message(t, dns.RcodeNameError, nil, soa), 20 * time.Second},
		"NXDOMAIN, no SOA":   {message(t, dns.RcodeNameError, nil, nil), 0},
		"no data":            {message(t, 0, nil, soa), 20 * time.Second},
		"alias without data": {message(t, 0, []string{"x. 10 IN CNAME y."}, soa), 10 * time.Second},
		"alias to nowhere":   {message(t, dns.RcodeNameError, []string{"x. 60 IN CNAME y."}, soa), 20 * time.Second},
		"negative, bounded":  {message(t, dns.RcodeNameError, nil, []string{"test. 99999 IN SOA a. b. 1 2 3 4 99999"}), 5 * time.Minute},
		"SERVFAIL":           {message(t, dns.RcodeServerFailure, nil, soa), 0},
	} {
		if got := lifetime(tt.m, dns.TypeA); got != tt.want {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}

func TestCacheTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c cache
		k := key{name: "x.", qtype: dns.TypeA, qclass: dns.ClassINET}
		c.put(k, 1, message(t, 0, []string{"x. 30 IN A 10.0.0.1"}, nil))
		time.Sleep(10*time.Second + time.Millisecond)
		if m := c.get(k, 1); m == nil || m.Answer[0].Header().Ttl != 20 {
			t.Errorf("after 10 s: %v", m)
		}
		if m := c.get(key{name: "x.", qtype: dns.TypeA, qclass: dns.ClassINET, dnssecOK: true}, 1); m != nil {
			t.Error("an answer without signatures for a query that wants them")
		}
		time.Sleep(20 * time.Second)
		if m := c.get(k, 1); m != nil || len(c.entries) != 0 || c.bytes != 0 {
			t.Errorf("after 30 s: %v, %d entries, %d bytes", m, len(c.entries), c.bytes)
		}
	})
}

func TestCacheGeneration(t *testing.T) {
	var c cache
	k := key{name: "x.", qtype: dns.TypeA, qclass: dns.ClassINET}
	put := func(generation int) {
		c.put(k, generation, message(t, 0, []string{"x. 30 IN A 10.0.0.1"}, nil))
	}
	put(1)
	if c.get(k, 2) != nil {
		t.Error("an answer from before the change")
	}
	put(1) // asked before the change, answered after
	if c.get(k, 2) != nil {
		t.Error("a late answer from before the change")
	}
	put(2)
	if c.get(k, 2) == nil {
		t.Error("no answer")
	}
}

func TestCacheBounds(t *testing.T) {
	var c cache
	name := func(i int) key { return key{name: fmt.Sprintf("n%d.", i), qtype: dns.TypeA} }
	for i := range maxEntries + 10 {
		c.put(name(i), 1, message(t, 0, []string{"x. 30 IN A 10.0.0.1"}, nil))
		c.get(name(0), 1) // used all the time
	}
	if len(c.entries) != maxEntries || c.order.Len() != maxEntries {
		t.Errorf("%d entries, %d in order", len(c.entries), c.order.Len())
	}
	if c.get(name(0), 1) == nil || c.get(name(1), 1) != nil {
		t.Error("the least recently used entry must go first")
	}
	long := `x. 30 IN TXT "` + strings.Repeat("a", 250) + `"`
	for i := range 400 {
		var lines []string
		for range 200 {
			lines = append(lines, long)
		}
		m := message(t, 0, lines, nil)
		c.put(key{name: fmt.Sprintf("n%d.", i), qtype: dns.TypeTXT}, 1, m)
	}
	if c.bytes > maxCacheBytes {
		t.Errorf("%d bytes, more than %d", c.bytes, maxCacheBytes)
	}
}
