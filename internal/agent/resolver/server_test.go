package resolver

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

// nameServer is a real DNS server on a loopback address.
type nameServer struct {
	addr netip.AddrPort

	mu      sync.Mutex
	handler func(q *dns.Msg, tcp bool) *dns.Msg // nil is silence
	queries []string                            // "NAME TYPE network"
}

// newServer starts a server on ip at port; 0 chooses one that is free for UDP and TCP.
func newServer(t *testing.T, ip string, port uint16, handler func(q *dns.Msg, tcp bool) *dns.Msg) *nameServer {
	t.Helper()
	s := &nameServer{handler: handler}
	var pc net.PacketConn
	var l net.Listener
	for try := 0; ; try++ {
		var err error
		pc, err = net.ListenPacket("udp", fmt.Sprintf("%s:%d", ip, port))
		if port != 0 && errors.Is(err, syscall.EADDRINUSE) {
			t.Skipf("another program has taken the port meanwhile: %v", err)
		} else if err != nil {
			t.Fatal(err)
		}
		if l, err = net.Listen("tcp", pc.LocalAddr().String()); err == nil {
			break
		}
		_ = pc.Close()
		if port != 0 && errors.Is(err, syscall.EADDRINUSE) {
			t.Skipf("another program has taken the port meanwhile: %v", err)
		} else if try > 20 || port != 0 {
			t.Fatal(err)
		}
	}
	s.addr = netip.MustParseAddrPort(pc.LocalAddr().String())
	for _, srv := range []*dns.Server{{PacketConn: pc, Handler: s}, {Listener: l, Handler: s}} {
		started := make(chan struct{})
		srv.NotifyStartedFunc = func() { close(started) }
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = srv.ActivateAndServe()
		}()
		<-started
		t.Cleanup(func() {
			_ = srv.Shutdown()
			<-done
		})
	}
	return s
}

// ServeDNS answers as the handler says.
func (s *nameServer) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	_, tcp := w.RemoteAddr().(*net.TCPAddr)
	s.mu.Lock()
	s.queries = append(s.queries, fmt.Sprintf("%s %s %s", q.Question[0].Name, dns.TypeToString[q.Question[0].Qtype], w.RemoteAddr().Network()))
	handler := s.handler
	s.mu.Unlock()
	if m := handler(q, tcp); m != nil {
		_ = w.WriteMsg(m)
	}
}

func (s *nameServer) serve(handler func(q *dns.Msg, tcp bool) *dns.Msg) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handler = handler
}

// taken returns the queries so far, and forgets them.
func (s *nameServer) taken() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.queries
	s.queries = nil
	return q
}

// zone answers from lines of a zone file. A name that owns no record does not exist.
func zone(t *testing.T, lines ...string) func(q *dns.Msg, tcp bool) *dns.Msg {
	t.Helper()
	var rrs []dns.RR
	for _, l := range lines {
		rr, err := dns.NewRR(l)
		if err != nil {
			t.Fatal(err)
		}
		rrs = append(rrs, rr)
	}
	soa, _ := dns.NewRR("cluster.local. 30 IN SOA ns.dns.cluster.local. h.cluster.local. 1 2 3 4 30")
	return func(q *dns.Msg, _ bool) *dns.Msg {
		m := new(dns.Msg).SetReply(q)
		name := dns.CanonicalName(q.Question[0].Name)
		exists := false
		for range 8 { // follow aliases
			next := ""
			for _, rr := range rrs {
				if dns.CanonicalName(rr.Header().Name) != name {
					continue
				}
				exists = true
				qtype := q.Question[0].Qtype
				if c, ok := rr.(*dns.CNAME); ok && qtype != dns.TypeCNAME {
					next = dns.CanonicalName(c.Target)
				} else if rr.Header().Rrtype != qtype && qtype != dns.TypeANY {
					continue
				}
				m.Answer = append(m.Answer, dns.Copy(rr))
			}
			if name = next; next == "" {
				break
			}
		}
		if !exists {
			m.Rcode = dns.RcodeNameError
		}
		if len(m.Answer) == 0 {
			m.Ns = []dns.RR{dns.Copy(soa)}
		}
		if opt := q.IsEdns0(); opt != nil {
			m.SetEdns0(4096, opt.Do())
		}
		return m
	}
}

// machine is a target with files of its own.
type machine struct {
	dir string
	r   *Resolver
}

// newMachine makes a target whose name servers answer at port.
func newMachine(t testing.TB, port uint16, resolvConfText, hostsText string) *machine {
	t.Helper()
	m := &machine{dir: t.TempDir()}
	if err := os.Mkdir(filepath.Join(m.dir, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	m.write(t, "resolv.conf", resolvConfText)
	m.write(t, "hosts", hostsText)
	m.r = New(slog.New(slog.DiscardHandler), Options{Open: func(name string) (*os.File, error) {
		return os.Open(filepath.Join(m.dir, name))
	}})
	m.r.files.port = port
	t.Cleanup(m.r.Close)
	return m
}

func (m *machine) write(t testing.TB, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(m.dir, "etc", name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// forget lets the next query look at the files again.
func (m *machine) forget() {
	m.r.files.mu.Lock()
	defer m.r.files.mu.Unlock()
	m.r.files.checked = time.Time{}
}

// exchange asks the resolver as a client would.
func (m *machine) exchange(t *testing.T, tr wire.Transport, q *dns.Msg) *dns.Msg {
	t.Helper()
	b, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	if b, err = m.r.Exchange(t.Context(), tr, b); err != nil {
		t.Fatalf("Exchange(%s): %v", q.Question[0].String(), err)
	}
	var resp dns.Msg
	if err := resp.Unpack(b); err != nil {
		t.Fatal(err)
	}
	if resp.Id != q.Id || !resp.Response || resp.RecursionDesired != q.RecursionDesired {
		t.Errorf("answer's header does not fit the query: %v", resp.MsgHdr)
	}
	if len(resp.Question) != 1 || resp.Question[0] != q.Question[0] {
		t.Errorf("answer to %v, asked %v", resp.Question, q.Question)
	}
	return &resp
}

// ask returns the answer in short: the response code and the answer section.
func (m *machine) ask(t *testing.T, name string, qtype uint16) string {
	t.Helper()
	return brief(m.exchange(t, wire.UDP, new(dns.Msg).SetQuestion(name, qtype)))
}

func brief(m *dns.Msg) string {
	out := []string{dns.RcodeToString[m.Rcode]}
	for _, rr := range m.Answer {
		h := rr.Header()
		data := rr.String()
		data = data[strings.LastIndexByte(data, '\t')+1:]
		out = append(out, h.Name+" "+dns.Type(h.Rrtype).String()+" "+data)
	}
	return strings.Join(out, "; ")
}
