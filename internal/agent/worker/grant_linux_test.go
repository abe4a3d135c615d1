package worker

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"github.com/mirrord-go/mirrord/internal/agent/target"
	"github.com/mirrord-go/mirrord/internal/agent/testnet"
	"github.com/mirrord-go/mirrord/internal/grant"
	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

// TestGrant is a client that was changed to ignore its grant: it asks for everything.
func TestGrant(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serve(t, l, "hello")
	dst := netip.MustParseAddrPort(l.Addr().String())
	app := exec.Command("sleep", "100")
	app.Env = []string{"SHOP=open", "API_TOKEN=secret", "TOKEN_X=1"}
	if err := app.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = app.Process.Kill()
		_ = app.Wait()
	}()
	w := share(t, func(c *Config) {
		withoutRights(c)
		c.Find = func(string) (*target.Process, error) { return target.Open("", app.Process.Pid) }
	})
	name := `^localhost$`
	rules := grant.Grant{
		Incoming: grant.Incoming{Steal: []string{"no-steal"}, Mirror: []string{"shop/no-mirror"}},
		Outgoing: []grant.OutgoingRules{{Policy: "base", Block: []grant.Rule{{CIDR: "10.0.0.0/8"}, {Hostname: &name}}}},
		Env:      []grant.Exclusion{{Policy: "base", Patterns: []string{"*TOKEN"}}},
	}
	c := w.visit(t, "eve", func(s *Session) { s.Grant, s.Pod.ContainerID = rules, "app" })

	const eacces = wire.Errno(syscall.EACCES)
	for mode, policy := range map[wire.Mode]string{wire.Steal: `"no-steal"`, wire.Mirror: `"shop/no-mirror"`} {
		r := c.request(t, wire.Control{Subscribe: &wire.Subscribe{Port: 8080, Mode: mode}})
		if r.Errno != eacces || !strings.Contains(r.Error, policy) {
			t.Errorf("%s: %+v", mode, r)
		}
	}
	if r := c.request(t, wire.Control{Environ: &wire.Environ{}}); !slices.Equal(r.Environ, []string{"SHOP=open", "TOKEN_X=1"}) {
		t.Errorf("environment %+v", r)
	}
	for range 3 {
		st, r := c.dial(t, netip.MustParseAddrPort("10.1.2.3:443"))
		if r.Errno != eacces {
			t.Errorf("a blocked address: %+v", r)
		}
		if _, err := st.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("behind the refusal: %v", err)
		}
	}
	c.notice(t, `a TCP connection to 10.1.2.3:443 is forbidden by policy "base" (network.outgoing.block[0])`)
	sends := c.open(t)
	_ = wire.WriteDatagramsHeader(sends)
	blocked := netip.MustParseAddrPort("10.1.2.3:53")
	_ = wire.WriteDatagram(sends, wire.Datagram{Type: wire.DatagramData, Addr: blocked, Payload: []byte("x")})
	if d, err := wire.ReadDatagram(bufio.NewReader(sends)); err != nil || d.Type != wire.DatagramError || d.Errno != eacces || d.Addr != blocked {
		t.Errorf("a blocked datagram: %+v, %v", d, err)
	}
	_ = sends.Close()

	// By name: what the session has resolved counts.
	open, r := c.dial(t, dst)
	if r.Errno != 0 {
		t.Fatalf("an address without a name: %+v", r)
	}
	mustAsk(t, open, "x", "hello")
	c.resolve(t, "localhost.")
	if _, r := c.dial(t, dst); r.Errno != eacces {
		t.Errorf("an address with a blocked name: %+v", r)
	}

	// One line for the user, not one for each.
	n := 0
	for _, got := range c.notices {
		if strings.Contains(got.Text, "block[0]") {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d notices about one rule: %+v", n, c.notices)
	}
	// A grant that allows everything, and one that takes it back.
	free := c.spec
	free.Grant = grant.Grant{}
	w.register(t, free)
	again, r := c.dial(t, dst)
	if r.Errno != 0 {
		t.Errorf("with another grant: %+v", r)
	}
	mustAsk(t, again, "x", "hello")
	w.register(t, c.spec)
	if _, err := ask(again, "x"); !isReset(err) {
		t.Errorf("a connection that is not allowed any more: %v", err)
	}
	eventually(t, func() error {
		if s, _ := w.state("s-eve"); s.Refused != 7 {
			return fmt.Errorf("state %+v, want 7 refusals", s)
		}
		return nil
	})
}

func (c *client) resolve(t *testing.T, name string) {
	t.Helper()
	q, _ := new(dns.Msg).SetQuestion(name, dns.TypeA).Pack()
	st := c.open(t)
	if err := wire.WriteQuery(st, wire.Query{Transport: wire.UDP, Message: q}); err != nil {
		t.Fatal(err)
	}
	if a, err := wire.ReadAnswer(st); err != nil || a.Errno != 0 {
		t.Fatalf("answer %+v, %v", a, err)
	}
}

// TestGrantTightened: ports that are not allowed any more are the target's again.
func TestGrantTightened(t *testing.T) {
	self, ok := testnet.Isolated(t)
	if !ok {
		return
	}
	p := newPod(t, self)
	w := share(t, nil)
	c := w.visit(t, "ann", nil)
	c.subscribe(t, stealIt)
	c.answering(t, "ann")
	if got := p.answer(t, "x"); got != "ann" {
		t.Fatalf("%q answers", got)
	}
	spec := c.spec
	spec.Grant = grant.Grant{Incoming: grant.Incoming{Steal: []string{"new"}}}
	w.register(t, spec)
	c.notice(t, `policy "new"`)
	if got := p.answer(t, "x"); got != "target" {
		t.Errorf("%q answers", got)
	}
}

func TestNames(t *testing.T) {
	now := time.Unix(1e9, 0)
	answer := func(question string, rrs ...string) []byte {
		m := new(dns.Msg).SetQuestion(question, dns.TypeA)
		m.Response = true
		for _, s := range rrs {
			rr, err := dns.NewRR(s)
			if err != nil {
				t.Fatal(err)
			}
			m.Answer = append(m.Answer, rr)
		}
		b, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	var n names
	n.learn(answer("DB.", "db. 60 IN CNAME real.example.", "real.example. 60 IN A 10.0.0.1", "real.example. 60 IN A 10.0.0.2"), "db.prod.svc.cluster.local.", now)
	n.learn(answer("six.", "six. 7200 IN AAAA 2001:db8::1"), "six.", now)
	n.learn([]byte("nonsense"), "x.", now)
	n.learn(nil, "x.", now)
	for addr, want := range map[string][]string{
		"10.0.0.1":        {"db", "db.prod.svc.cluster.local", "real.example"},
		"::ffff:10.0.0.2": {"db", "db.prod.svc.cluster.local", "real.example"},
		"2001:db8::1":     {"six"},
		"10.0.0.3":        nil,
	} {
		got := n.of(netip.MustParseAddr(addr), now)
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", addr, diff)
		}
	}
	later := now.Add(time.Hour)
	if got := n.of(netip.MustParseAddr("10.0.0.1"), later); got != nil {
		t.Errorf("an hour later: %v", got)
	}
	if got := n.of(netip.MustParseAddr("2001:db8::1"), later); len(got) != 1 {
		t.Errorf("within its TTL: %v", got)
	}
	// Bounded, the oldest go.
	for i := range maxAddresses {
		n.learn(answer("x.", fmt.Sprintf("x. 60 IN A 10.1.%d.%d", i/256, i%256)), "x.", now)
	}
	for i := range 2 * maxNames {
		n.learn(answer(fmt.Sprintf("n%d.", i), fmt.Sprintf("n%d. 60 IN A 10.1.0.7", i)), "", now)
	}
	if len(n.known) != maxAddresses || len(n.order) != maxAddresses || n.of(netip.MustParseAddr("10.0.0.1"), now) != nil {
		t.Errorf("%d addresses are known", len(n.known))
	}
	if got := n.of(netip.MustParseAddr("10.1.0.7"), now); len(got) != maxNames || !slices.Contains(got, fmt.Sprintf("n%d", 2*maxNames-1)) {
		t.Errorf("names %v", got)
	}
}

func FuzzNames(f *testing.F) {
	q, _ := new(dns.Msg).SetQuestion("db.", dns.TypeA).Pack()
	f.Add(q, "db.")
	f.Add([]byte{}, "")
	f.Fuzz(func(t *testing.T, answer []byte, completed string) {
		var n names
		n.learn(answer, completed, time.Now())
		for a := range n.known {
			if got := n.of(a, time.Now()); len(got) > maxNames || slices.Contains(got, "") {
				t.Errorf("%s: %q", a, got)
			}
		}
	})
}
