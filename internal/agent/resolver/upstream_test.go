package resolver

import (
	"errors"
	"fmt"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

func TestFailover(t *testing.T) {
	good := newServer(t, "127.0.0.3", 0, zone(t, "x.test. 0 IN A 10.0.0.1"))
	port := good.addr.Port()
	bad := newServer(t, "127.0.0.2", port, nil)
	// Nobody listens on 127.0.0.1 at that port. More attempts than the one that it takes, for when this machine stalls.
	m := newMachine(t, port, "nameserver 127.0.0.1\nnameserver 127.0.0.2\nnameserver 127.0.0.3\noptions timeout:2 attempts:5\n", "")
	failure := func(q *dns.Msg, _ bool) *dns.Msg { return new(dns.Msg).SetRcode(q, dns.RcodeServerFailure) }
	for name, handler := range map[string]func(*dns.Msg, bool) *dns.Msg{
		"SERVFAIL": failure,
		"REFUSED without the question": func(q *dns.Msg, _ bool) *dns.Msg {
			r := new(dns.Msg).SetRcode(q, dns.RcodeRefused)
			r.Question = nil
			return r
		},
		"silence": func(*dns.Msg, bool) *dns.Msg { return nil },
		"another question": func(q *dns.Msg, _ bool) *dns.Msg {
			r := new(dns.Msg).SetReply(q)
			r.Question[0].Name = "y.test."
			return r
		},
		"another ID": func(q *dns.Msg, _ bool) *dns.Msg {
			r := new(dns.Msg).SetReply(q)
			r.Id++
			return r
		},
	} {
		bad.serve(handler)
		if got := m.ask(t, "x.test.", dns.TypeA); got != "NOERROR; x.test. A 10.0.0.1" {
			t.Errorf("after %s: %s", name, got)
		}
	}
	bad.serve(failure)
	good.serve(failure)
	if got := m.ask(t, "x.test.", dns.TypeA); got != "SERVFAIL" {
		t.Errorf("all have failed: %s", got)
	}
}

func TestNoServer(t *testing.T) {
	silent := newServer(t, "127.0.0.1", 0, func(*dns.Msg, bool) *dns.Msg { return nil })
	query, _ := new(dns.Msg).SetQuestion("x.test.", dns.TypeA).Pack()
	for name, tt := range map[string]struct {
		conf string
		want syscall.Errno
	}{
		"silent":  {"nameserver 127.0.0.1\noptions timeout:1 attempts:1", syscall.ETIMEDOUT},
		"refused": {"nameserver 127.0.0.9", syscall.ECONNREFUSED},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t, silent.addr.Port(), tt.conf, "")
			_, err := m.r.Exchange(t.Context(), wire.UDP, query)
			if !errors.Is(err, tt.want) {
				t.Errorf("Exchange: %v, want %v", err, tt.want)
			}
		})
	}
}

func bigZone(t *testing.T, n int) func(*dns.Msg, bool) *dns.Msg {
	var lines []string
	for i := range n {
		lines = append(lines, fmt.Sprintf("big.test. 30 IN A 10.0.%d.%d", i/256, i%256))
	}
	full := zone(t, lines...)
	return func(q *dns.Msg, tcp bool) *dns.Msg {
		m := full(q, tcp)
		if !tcp {
			m.Truncate(dns.MinMsgSize)
		}
		return m
	}
}

func TestTruncation(t *testing.T) {
	s := newServer(t, "127.0.0.1", 0, bigZone(t, 1000))
	m := newMachine(t, s.addr.Port(), "nameserver 127.0.0.1\n", "")
	q := new(dns.Msg).SetQuestion("big.test.", dns.TypeA)
	if r := m.exchange(t, wire.TCP, q); r.Truncated || len(r.Answer) != 1000 {
		t.Errorf("over TCP: %d records, truncated %t", len(r.Answer), r.Truncated)
	}
	if diff := cmp.Diff([]string{"big.test. A udp", "big.test. A tcp"}, s.taken()); diff != "" {
		t.Errorf("asked (-want +got):\n%s", diff)
	}
	for size, want := range map[uint16]int{0: 512, 1232: 1232, 100: 512} {
		q := q.Copy()
		if size != 0 {
			q.SetEdns0(size, false)
		}
		b, _ := q.Pack()
		b, err := m.r.Exchange(t.Context(), wire.UDP, b)
		if err != nil {
			t.Fatal(err)
		}
		var r dns.Msg
		if err := r.Unpack(b); err != nil || !r.Truncated || len(b) > want {
			t.Errorf("for a client with %d bytes: %d bytes, truncated %t, %v", size, len(b), r.Truncated, err)
		}
	}
	if r := m.exchange(t, wire.UDP, q.Copy().SetEdns0(65535, false)); r.Truncated || len(r.Answer) != 1000 {
		t.Errorf("for a client with room: %d records, truncated %t", len(r.Answer), r.Truncated)
	}
	if got := s.taken(); got != nil {
		t.Errorf("cached answers were asked for again: %v", got)
	}
}

func TestUseVC(t *testing.T) {
	s := newServer(t, "127.0.0.1", 0, zone(t, "x.test. 0 IN A 10.0.0.1"))
	m := newMachine(t, s.addr.Port(), "nameserver 127.0.0.1\noptions use-vc\n", "")
	m.ask(t, "x.test.", dns.TypeA)
	if diff := cmp.Diff([]string{"x.test. A tcp"}, s.taken()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestRotate(t *testing.T) {
	a := newServer(t, "127.0.0.1", 0, zone(t, "x.test. 0 IN A 10.0.0.1"))
	b := newServer(t, "127.0.0.2", a.addr.Port(), zone(t, "x.test. 0 IN A 10.0.0.1"))
	m := newMachine(t, a.addr.Port(), "nameserver 127.0.0.1\nnameserver 127.0.0.2\noptions rotate\n", "")
	for range 4 {
		m.ask(t, "x.test.", dns.TypeA)
	}
	if na, nb := len(a.taken()), len(b.taken()); na != 2 || nb != 2 {
		t.Errorf("asked %d and %d times, want 2 and 2", na, nb)
	}
}

func TestEDNS(t *testing.T) {
	var mu sync.Mutex
	var seen []*dns.OPT
	answer := zone(t, "x.test. 30 IN A 10.0.0.1")
	s := newServer(t, "127.0.0.1", 0, func(q *dns.Msg, tcp bool) *dns.Msg {
		mu.Lock()
		seen = append(seen, q.IsEdns0())
		mu.Unlock()
		m := answer(q, tcp)
		m.AuthenticatedData = true
		return m
	})
	m := newMachine(t, s.addr.Port(), "nameserver 127.0.0.1\n", "")
	last := func() *dns.OPT {
		mu.Lock()
		defer mu.Unlock()
		return seen[len(seen)-1]
	}
	plain := new(dns.Msg).SetQuestion("x.test.", dns.TypeA)
	if r := m.exchange(t, wire.UDP, plain); r.IsEdns0() != nil || r.AuthenticatedData || last() != nil {
		t.Errorf("without EDNS: %v, asked with %v", r, last())
	}
	do := plain.Copy().SetEdns0(4096, true)
	do.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0011223344556677"}}
	r := m.exchange(t, wire.UDP, do)
	if o := r.IsEdns0(); o == nil || !o.Do() || !r.AuthenticatedData {
		t.Errorf("with DO: %v", r)
	}
	if o := last(); o == nil || !o.Do() || len(o.Option) != 0 {
		t.Errorf("with DO asked with %v, want DO and no cookie", o)
	}
	for range 2 { // never from the cache
		subnet := plain.Copy().SetEdns0(4096, false)
		subnet.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: 24, Address: []byte{192, 0, 2, 0}}}
		m.exchange(t, wire.UDP, subnet)
		if o := last(); o == nil || len(o.Option) != 1 {
			t.Errorf("with a client subnet asked with %v", o)
		}
	}
	if n := len(s.taken()); n != 4 {
		t.Errorf("%d queries, want 4", n)
	}
	v1 := plain.Copy().SetEdns0(4096, false)
	v1.IsEdns0().SetVersion(1)
	if r := m.exchange(t, wire.UDP, v1); r.Rcode != dns.RcodeBadVers {
		t.Errorf("EDNS version 1: %v", r)
	}
}

func TestServerWithoutEDNS(t *testing.T) {
	s := newServer(t, "127.0.0.1", 0, func(q *dns.Msg, tcp bool) *dns.Msg {
		if q.IsEdns0() != nil {
			return new(dns.Msg).SetRcodeFormatError(q)
		}
		return zone(t, "x.test. 30 IN A 10.0.0.1")(q, tcp)
	})
	m := newMachine(t, s.addr.Port(), "nameserver 127.0.0.1\noptions edns0\n", "")
	if got := m.ask(t, "x.test.", dns.TypeA); got != "NOERROR; x.test. A 10.0.0.1" {
		t.Error(got)
	}
}
