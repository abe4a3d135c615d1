package resolver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

const podConf = "nameserver 127.0.0.1\nsearch prod.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5 timeout:5 attempts:5\n"

func TestSearch(t *testing.T) {
	s := newServer(t, "127.0.0.1", 0, zone(t,
		"shop.prod.svc.cluster.local. 30 IN A 10.96.0.1",
		"db.other.svc.cluster.local. 30 IN A 10.96.0.2",
		"db.other.svc.cluster.local. 30 IN AAAA fd00::2",
		"alias.prod.svc.cluster.local. 30 IN CNAME api.example.com.",
		"api.example.com. 30 IN A 192.0.2.7",
		"mixed.prod.svc.cluster.local. 30 IN A 10.96.0.3",
		"mixed.cluster.local. 30 IN AAAA fd00::bad",
		"txt.prod.svc.cluster.local. 30 IN TXT only",
		"txt.cluster.local. 30 IN A 10.96.0.4",
		"half.prod.svc.cluster.local. 30 IN TXT only",
		"mail.prod.svc.cluster.local. 30 IN MX 10 mx.example.com.",
		"_http._tcp.shop.prod.svc.cluster.local. 30 IN SRV 0 100 80 shop.prod.svc.cluster.local.",
		"raw.example.com. 30 IN TYPE65280 \\# 4 DEADBEEF",
		"svc.example.com. 30 IN HTTPS 1 . alpn=h2",
		"caa.example.com. 30 IN CAA 0 issue \"ca.example\"",
		"7.2.0.192.in-addr.arpa. 30 IN PTR api.example.com.",
	))
	m := newMachine(t, s.addr.Port(), podConf, "10.1.1.1 fixed.prod.svc.cluster.local fixed\n")
	for name, tt := range map[string]struct {
		name  string
		qtype uint16
		want  string
	}{
		"short":                         {"shop.", dns.TypeA, "NOERROR; shop. A 10.96.0.1"},
		"case of the question":          {"sHoP.", dns.TypeA, "NOERROR; sHoP. A 10.96.0.1"},
		"other namespace":               {"db.other.", dns.TypeAAAA, "NOERROR; db.other. AAAA fd00::2"},
		"expanded":                      {"shop.prod.svc.cluster.local.", dns.TypeA, "NOERROR; shop.prod.svc.cluster.local. A 10.96.0.1"},
		"expanded by a stub with typos": {"nope.prod.svc.cluster.local.", dns.TypeA, "NXDOMAIN"},
		"external":                      {"api.example.com.", dns.TypeA, "NOERROR; api.example.com. A 192.0.2.7"},
		"alias":                         {"alias.", dns.TypeA, "NOERROR; alias. CNAME api.example.com.; api.example.com. A 192.0.2.7"},
		"addresses of one name only":    {"mixed.", dns.TypeAAAA, "NOERROR"},
		"no sibling, search goes on":    {"txt.", dns.TypeA, "NOERROR; txt. A 10.96.0.4"},
		"no data is remembered":         {"half.", dns.TypeA, "NOERROR"},
		"nowhere":                       {"nothing.", dns.TypeA, "NXDOMAIN"},
		"MX":                            {"mail.", dns.TypeMX, "NOERROR; mail. MX 10 mx.example.com."},
		"SRV":                           {"_http._tcp.shop.", dns.TypeSRV, "NOERROR; _http._tcp.shop. SRV 0 100 80 shop.prod.svc.cluster.local."},
		"ANY":                           {"mail.", dns.TypeANY, "NOERROR; mail. MX 10 mx.example.com."},
		"unknown type":                  {"raw.example.com.", 65280, "NOERROR; raw.example.com. TYPE65280 \\# 4 deadbeef"},
		"HTTPS":                         {"svc.example.com.", dns.TypeHTTPS, `NOERROR; svc.example.com. HTTPS 1 . alpn="h2"`},
		"CAA":                           {"caa.example.com.", dns.TypeCAA, `NOERROR; caa.example.com. CAA 0 issue "ca.example"`},
		"PTR":                           {"7.2.0.192.in-addr.arpa.", dns.TypePTR, "NOERROR; 7.2.0.192.in-addr.arpa. PTR api.example.com."},
		"hosts":                         {"fixed.", dns.TypeA, "NOERROR; fixed. A 10.1.1.1"},
		"hosts, other family":           {"fixed.", dns.TypeAAAA, "NOERROR"},
		"hosts, reverse":                {"1.1.1.10.in-addr.arpa.", dns.TypePTR, "NOERROR; 1.1.1.10.in-addr.arpa. PTR fixed.prod.svc.cluster.local."},
		"localhost":                     {"localhost.", dns.TypeA, "NOERROR; localhost. A 127.0.0.1"},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, m.ask(t, tt.name, tt.qtype)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestSearchOrder(t *testing.T) {
	s := newServer(t, "127.0.0.1", 0, zone(t))
	m := newMachine(t, s.addr.Port(), "nameserver 127.0.0.1\nsearch a.test b.test\noptions ndots:2\n", "")
	m.ask(t, "x.y.", dns.TypeTXT)
	m.ask(t, "x.y.z.", dns.TypeTXT)
	m.ask(t, "x.a.test.", dns.TypeTXT)
	want := []string{
		"x.y.a.test. TXT udp", "x.y.b.test. TXT udp", "x.y. TXT udp",
		"x.y.z. TXT udp", "x.y.z.a.test. TXT udp", "x.y.z.b.test. TXT udp",
		"x.a.test. TXT udp",
	}
	if diff := cmp.Diff(want, s.taken()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestOutcome checks which failure wins when no candidate has records.
func TestOutcome(t *testing.T) {
	s := newServer(t, "127.0.0.1", 0, func(q *dns.Msg, _ bool) *dns.Msg {
		code := map[string]int{"fail": dns.RcodeServerFailure, "none": dns.RcodeSuccess}[strings.Split(q.Question[0].Name, ".")[0]]
		if strings.HasSuffix(q.Question[0].Name, ".b.test.") || dns.CountLabel(q.Question[0].Name) < 3 {
			code = dns.RcodeNameError
		}
		return new(dns.Msg).SetRcode(q, code)
	})
	for _, tt := range []struct {
		ndots int
		name  string
		want  string
	}{
		{1, "fail.", "SERVFAIL"},
		{1, "none.", "NOERROR"},
		{1, "none.x.", "NXDOMAIN"}, // the name itself was asked first, and decides
		{3, "none.x.", "NOERROR"},
	} {
		m := newMachine(t, s.addr.Port(), fmt.Sprintf("nameserver 127.0.0.1\nsearch a.test b.test\noptions ndots:%d\n", tt.ndots), "")
		if got := m.ask(t, tt.name, dns.TypeTXT); got != tt.want {
			t.Errorf("ndots %d, %s: %s, want %s", tt.ndots, tt.name, got, tt.want)
		}
	}
}

func TestNoAAAA(t *testing.T) {
	s := newServer(t, "127.0.0.1", 0, zone(t, "x.test. 30 IN AAAA fd00::1"))
	m := newMachine(t, s.addr.Port(), "nameserver 127.0.0.1\noptions no-aaaa\n", "")
	if got := m.ask(t, "x.test.", dns.TypeAAAA); got != "NOERROR" || s.taken() != nil {
		t.Error(got)
	}
}

func TestCaching(t *testing.T) {
	s := newServer(t, "127.0.0.1", 0, zone(t, "x.test. 30 IN A 10.0.0.1", "zero.test. 0 IN A 10.0.0.1"))
	m := newMachine(t, s.addr.Port(), "nameserver 127.0.0.1\n", "")
	asked := func(name string, qtype uint16) int {
		t.Helper()
		m.ask(t, name, qtype)
		return len(s.taken())
	}
	for i, want := range []int{1, 0, 0} {
		if n := asked("x.test.", dns.TypeA); n != want {
			t.Errorf("positive, turn %d: %d queries", i, n)
		}
		if n := asked("no.test.", dns.TypeA); n != want {
			t.Errorf("NXDOMAIN, turn %d: %d queries", i, n)
		}
		if n := asked("x.test.", dns.TypeMX); n != want {
			t.Errorf("no data, turn %d: %d queries", i, n)
		}
		if n := asked("zero.test.", dns.TypeA); n != 1 {
			t.Errorf("TTL 0, turn %d: %d queries", i, n)
		}
	}
	// Another resolv.conf, another view of the world.
	m.write(t, "resolv.conf", "nameserver 127.0.0.1\n# changed\n")
	m.forget()
	if n := asked("x.test.", dns.TypeA); n != 1 {
		t.Errorf("after a change of resolv.conf: %d queries", n)
	}
}

func TestReload(t *testing.T) {
	s := newServer(t, "127.0.0.1", 0, zone(t, "x.a.test. 30 IN A 10.0.0.1", "x.b.test. 30 IN A 10.0.0.2"))
	m := newMachine(t, s.addr.Port(), "nameserver 127.0.0.1\nsearch a.test\n", "")
	step := func(name, want string) {
		t.Helper()
		m.forget()
		if got := m.ask(t, name, dns.TypeA); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	step("x.", "NOERROR; x. A 10.0.0.1")
	m.write(t, "resolv.conf", "nameserver 127.0.0.1\nsearch b.test test\n")
	step("x.", "NOERROR; x. A 10.0.0.2")
	m.write(t, "hosts", "10.0.0.3 x\n")
	step("x.", "NOERROR; x. A 10.0.0.3")
	if err := os.RemoveAll(m.dir + "/etc/hosts"); err != nil {
		t.Fatal(err)
	}
	step("x.", "NOERROR; x. A 10.0.0.2")
	// What can't be read any more stays as it was: the container may just be ending.
	if err := os.Remove(m.dir + "/etc/resolv.conf"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("resolv.conf", m.dir+"/etc/resolv.conf"); err != nil {
		t.Fatal(err)
	}
	step("x.", "NOERROR; x. A 10.0.0.2")
}

func TestUnreadableFromTheStart(t *testing.T) {
	m := newMachine(t, 53, "", "")
	m.r.files.open = func(string) (*os.File, error) { return nil, syscall.ESRCH }
	if got := m.ask(t, "x.test.", dns.TypeA); got != "SERVFAIL" {
		t.Error(got)
	}
}

func TestCoalescing(t *testing.T) {
	release := make(chan struct{})
	arrived := make(chan struct{}, 100)
	answer := zone(t, "x.test. 30 IN A 10.0.0.1")
	s := newServer(t, "127.0.0.1", 0, func(q *dns.Msg, tcp bool) *dns.Msg {
		arrived <- struct{}{}
		<-release
		return answer(q, tcp)
	})
	m := newMachine(t, s.addr.Port(), "nameserver 127.0.0.1\noptions timeout:30\n", "")
	query, _ := new(dns.Msg).SetQuestion("x.test.", dns.TypeA).Pack()

	// One that gives up leaves the question under way.
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() {
		_, err := m.r.Exchange(ctx, wire.UDP, query)
		gone <- err
	}()
	<-arrived
	cancel()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Errorf("Exchange that was given up: %v", err)
	}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, err := m.r.Exchange(t.Context(), wire.UDP, query); err != nil {
				t.Error(err)
			}
		})
	}
	close(release)
	wg.Wait()
	if got := s.taken(); len(got) != 1 {
		t.Errorf("%d queries for one question", len(got))
	}
}

func TestCloseEndsFlights(t *testing.T) {
	arrived := make(chan struct{}, 100)
	s := newServer(t, "127.0.0.1", 0, func(*dns.Msg, bool) *dns.Msg {
		arrived <- struct{}{}
		return nil
	})
	m := newMachine(t, s.addr.Port(), "nameserver 127.0.0.1\noptions timeout:30\n", "")
	query, _ := new(dns.Msg).SetQuestion("x.test.", dns.TypeA).Pack()
	done := make(chan error, 1)
	go func() {
		_, err := m.r.Exchange(context.Background(), wire.UDP, query)
		done <- err
	}()
	<-arrived
	start := time.Now()
	m.r.Close()
	if err := <-done; err == nil || time.Since(start) > 10*time.Second {
		t.Errorf("Exchange after Close: %v after %v", err, time.Since(start))
	}
}

func TestNotAQuery(t *testing.T) {
	s := newServer(t, "127.0.0.1", 0, zone(t))
	m := newMachine(t, s.addr.Port(), "nameserver 127.0.0.1\n", "")
	pack := func(change func(*dns.Msg)) []byte {
		q := new(dns.Msg).SetQuestion("x.test.", dns.TypeA)
		q.Id = 0x1234
		change(q)
		b, err := q.Pack()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	whole := pack(func(*dns.Msg) {})
	for name, tt := range map[string]struct {
		msg   []byte
		rcode int
		drop  bool
	}{
		"empty":           {msg: nil, drop: true},
		"half a header":   {msg: whole[:6], drop: true},
		"a response":      {msg: pack(func(m *dns.Msg) { m.Response = true }), drop: true},
		"half a question": {msg: whole[:15], rcode: dns.RcodeFormatError},
		"no question":     {msg: pack(func(m *dns.Msg) { m.Question = nil }), rcode: dns.RcodeFormatError},
		"two questions":   {msg: pack(func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }), rcode: dns.RcodeFormatError},
		"an update":       {msg: pack(func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }), rcode: dns.RcodeNotImplemented},
		"a zone transfer": {msg: pack(func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAXFR }), rcode: dns.RcodeNotImplemented},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := m.r.Exchange(t.Context(), wire.UDP, tt.msg)
			if tt.drop {
				if !errors.Is(err, ErrDropped) {
					t.Errorf("got %v, %v; want ErrDropped", b, err)
				}
				return
			}
			var r dns.Msg
			if uerr := r.Unpack(b); err != nil || uerr != nil || r.Rcode != tt.rcode || r.Id != 0x1234 || !r.Response {
				t.Errorf("got %v, %v, %v; want code %s", r.MsgHdr, err, uerr, dns.RcodeToString[tt.rcode])
			}
		})
	}
	if got := s.taken(); got != nil {
		t.Errorf("these reached the name server: %v", got)
	}
}

func FuzzExchange(f *testing.F) {
	add := func(m *dns.Msg) {
		b, _ := m.Pack()
		f.Add(b)
	}
	add(new(dns.Msg).SetQuestion("localhost.", dns.TypeA))
	add(new(dns.Msg).SetQuestion("web.", dns.TypeAAAA).SetEdns0(1232, true))
	add(new(dns.Msg).SetQuestion("1.0.0.127.in-addr.arpa.", dns.TypePTR))
	f.Add([]byte("\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\xc0\x0c\x00\x01\x00\x01"))
	// No name server: nothing leaves, every path before and after one is taken.
	m := newMachine(f, 1, "nameserver 127.0.0.1\nsearch a.test\n", "10.0.0.1 web\n")
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := m.r.Exchange(t.Context(), wire.UDP, b)
		if err != nil {
			return
		}
		var r dns.Msg
		if err := r.Unpack(got); err != nil || !r.Response || len(b) < 2 || got[0] != b[0] || got[1] != b[1] {
			t.Fatalf("answer %x to %x: %v", got, b, err)
		}
	})
}

func FuzzAnswerTo(f *testing.F) {
	q := new(dns.Msg).SetQuestion("x.test.", dns.TypeA)
	q.Id = 7
	r := new(dns.Msg).SetReply(q)
	b, _ := r.Pack()
	f.Add(b)
	f.Add(b[:14])
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := answerTo(q, b)
		if m == nil || err != nil {
			return
		}
		if m.Id != 7 || !m.Response {
			t.Fatalf("%v taken for an answer", m)
		}
		lifetime(m, dns.TypeA)
		if _, err := pack(rename(m, "x.test.", "y."), q, wire.UDP); err != nil {
			t.Fatal(err)
		}
	})
}
