package grant

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	// The clock of slow patterns stops by itself, but later than the tests do.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/dlclark/regexp2.runClock"))
}

func compile(t testing.TB, g Grant) *Enforcer {
	t.Helper()
	e, err := g.Compile()
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// causes are "POLICY RULE" of a refusal; none when there is no error.
func causes(t *testing.T, err error) []string {
	t.Helper()
	if err == nil {
		return nil
	}
	var refusal *Refusal
	if !errors.As(err, &refusal) {
		t.Fatalf("no refusal: %v", err)
	}
	var all []string
	for _, c := range refusal.Causes {
		if c.Next == "" || c.Code == "" {
			t.Errorf("a cause without advice or code: %+v", c)
		}
		all = append(all, strings.TrimLeft(c.Policy+" "+c.Rule, " "))
	}
	return all
}

func TestZeroGrantAllowsEverything(t *testing.T) {
	e := compile(t, Grant{})
	for what, err := range map[string]error{
		"steal":   e.Subscribe(Steal, nil),
		"mirror":  e.Subscribe(Mirror, nil),
		"resolve": e.Resolve(),
		"tcp":     e.Dial(TCP, netip.MustParseAddrPort("10.0.0.1:22"), nil),
		"unix":    e.Unix("/run/s"),
		"udp":     e.Dial(UDP, netip.MustParseAddrPort("[::1]:53"), []string{"x"}),
	} {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	if !e.Variable("SECRET") {
		t.Error("a variable is refused")
	}
	if text, err := json.Marshal(Grant{}); err != nil || string(text) != "{}" {
		t.Errorf("as JSON it is %s, %v", text, err)
	}
}

func TestUnixNeedsToBeAskedFor(t *testing.T) {
	if err := compile(t, Grant{Features: &Features{Unix: true}}).Unix("/run/s"); err != nil {
		t.Errorf("asked for: %v", err)
	}
	got := causes(t, compile(t, Grant{Features: &Features{TCP: true, Profile: "base"}}).Unix("/run/s"))
	if want := []string{`feature.network.outgoing.unix_streams is empty, with profile "base"`}; !slices.Equal(got, want) {
		t.Errorf("causes %q, want %q", got, want)
	}
}

func TestSubscribe(t *testing.T) {
	header := func(text string) *HTTPFilter { return &HTTPFilter{Header: text} }
	rule := func(text string) Incoming { return Incoming{HeaderFilters: []HeaderRule{{"h", text}}} }
	const username = "h network.incoming.httpFilter.headerFilter: ^username: .+"
	for _, test := range []struct {
		name   string
		in     Incoming
		mode   string
		filter *HTTPFilter
		want   []string
	}{
		{"mirror is not steal", Incoming{Steal: []string{"a"}}, Mirror, nil, nil},
		{"steal is not mirror", Incoming{Mirror: []string{"a"}}, Steal, nil, nil},
		{"mirror", Incoming{Mirror: []string{"a", "shop/b"}}, Mirror, nil, []string{"a block: mirror", "shop/b block: mirror"}},
		{"steal with a filter", Incoming{Steal: []string{"a"}}, Steal, header("x: y"), []string{"a block: steal"}},
		{"steal and without filter", Incoming{Steal: []string{"a"}, StealWithoutFilter: []string{"b"}}, Steal, nil, []string{"a block: steal"}},
		{"without filter", Incoming{StealWithoutFilter: []string{"b"}}, Steal, nil, []string{"b block: steal-without-filter"}},
		{"without filter, with one", Incoming{StealWithoutFilter: []string{"b"}}, Steal, &HTTPFilter{Other: true}, nil},

		{"header rule, no filter", rule("^username: .+"), Steal, nil, []string{username}},
		{"header rule, mirror", rule("^username: .+"), Mirror, nil, nil},
		{"header rule, matching", rule("^username: .+"), Steal, header("username: ann"), nil},
		{"header rule, other case", rule("^username: .+"), Steal, header("Username: ann"), nil},
		{"header rule, anchors of the user", rule("^username: .+"), Steal, header("^username: ann$"), nil},
		{"the user's $ is ignored", rule("^username: [a-z]+$"), Steal, header("^username: ann$"), nil},
		{"an escaped $ is no anchor", rule(`^username: [a-z]+$`), Steal, header(`^username: ann\$`), []string{"h network.incoming.httpFilter.headerFilter: ^username: [a-z]+$"}},
		{"alternatives of the text", rule("^username: [a-z]+$"), Steal, header("username: ann|.*"), []string{"h network.incoming.httpFilter.headerFilter: ^username: [a-z]+$"}},
		{"header rule, other header", rule("^username: .+"), Steal, header("x-username: ann"), []string{username}},
		{"header rule, path", rule("^username: .+"), Steal, &HTTPFilter{Other: true}, []string{username}},
		{"all_of with one", rule("^username: .+"), Steal, &HTTPFilter{AllOf: []HTTPFilter{{Header: "username: a"}, {Other: true}, {Header: "x: y"}}}, nil},
		{"all_of with none", rule("^username: .+"), Steal, &HTTPFilter{AllOf: []HTTPFilter{{Other: true}, {Header: "x: y"}}}, []string{username}},
		{"any_of, all match", rule("^username: .+"), Steal, &HTTPFilter{AnyOf: []HTTPFilter{{Header: "username: a"}, {Header: "username: b"}}}, nil},
		{"any_of, one does not", rule("^username: .+"), Steal, &HTTPFilter{AnyOf: []HTTPFilter{{Header: "username: a"}, {Header: "x: y"}}}, []string{username}},
		{"any_of, a path gets around", rule("^username: .+"), Steal, &HTTPFilter{AnyOf: []HTTPFilter{{Header: "username: a"}, {Other: true}}}, []string{username}},
		{"nothing at all", rule(".*"), Steal, &HTTPFilter{}, []string{"h network.incoming.httpFilter.headerFilter: .*"}},
		{"two parts", rule("^username: .+"), Steal, &HTTPFilter{Header: "username: a", AnyOf: []HTTPFilter{{Other: true}}}, []string{username}},
		{"two parts within", rule("^username: .+"), Steal, &HTTPFilter{AllOf: []HTTPFilter{{Header: "username: a", Other: true}}}, []string{username}},
		{"two rules", Incoming{HeaderFilters: []HeaderRule{{"a", "^x: "}, {"b", "^y: "}}}, Steal, &HTTPFilter{AllOf: []HTTPFilter{{Header: "x: 1"}, {Header: "y: 1"}}}, nil},
		{"two rules, one kept", Incoming{HeaderFilters: []HeaderRule{{"a", "^x: "}, {"b", "^y: "}}}, Steal, header("x: 1"), []string{"b network.incoming.httpFilter.headerFilter: ^y: "}},
		{"look-around", rule(`^(?!admin)[a-z]+: \w+$`), Steal, header("admin: x"), []string{`h network.incoming.httpFilter.headerFilter: ^(?!admin)[a-z]+: \w+$`}},
	} {
		err := compile(t, Grant{Incoming: test.in}).Subscribe(test.mode, test.filter)
		if diff := cmp.Diff(test.want, causes(t, err)); diff != "" {
			t.Errorf("%s: %v\n%s", test.name, err, diff)
		}
	}
	if err := compile(t, Grant{}).Subscribe("Steal", nil); err == nil {
		t.Error("an unknown mode is allowed")
	}
}

func name(text string) *string { return &text }

func TestDial(t *testing.T) {
	rules := OutgoingRules{
		Policy: "out",
		Allow: []Rule{
			{CIDR: "10.0.0.0/16", Except: []string{"10.0.5.0/24"}, Ports: []Port{{TCP, 80}, {TCP, 443}, {UDP, 53}}},
			{Hostname: name(`^shop\.(co|com)$`), Ports: []Port{{TCP, 443}}},
			{CIDR: "2001:db8::/32"},
		},
		Block: []Rule{
			{CIDR: "0.0.0.0/0", Ports: []Port{{TCP, 22}}},
			{Hostname: name(`^secret\.`)},
			{CIDR: "127.0.0.0/8"},
		},
	}
	const none = "out network.outgoing.allow: no rule matches"
	const block = "out network.outgoing.block[%d]"
	for _, test := range []struct {
		proto, dst string
		names      []string
		want       []string
	}{
		{TCP, "10.0.1.1:80", nil, nil},
		{TCP, "10.0.1.1:443", []string{"anything"}, nil},
		{UDP, "10.0.1.1:53", nil, nil},
		{TCP, "10.0.1.1:53", nil, []string{none}},
		{UDP, "10.0.1.1:80", nil, []string{none}},
		{TCP, "10.0.5.1:80", nil, []string{none}},
		{TCP, "10.1.0.1:80", nil, []string{none}},
		{TCP, "[::ffff:10.0.1.1]:80", nil, nil},
		{TCP, "10.0.1.1:22", nil, []string{fmt.Sprintf(block, 0), none}},
		{TCP, "192.0.2.1:443", []string{"shop.com"}, nil},
		{TCP, "192.0.2.1:443", []string{"SHOP.com."}, nil},
		{TCP, "192.0.2.1:443", []string{"other", "shop.co"}, nil},
		{TCP, "192.0.2.1:443", []string{"shop.com.evil"}, []string{none}},
		{TCP, "192.0.2.1:443", nil, []string{none}}, // the address alone does not tell
		{TCP, "192.0.2.1:80", []string{"shop.com"}, []string{none}},
		// An address that an allowed name and a blocked one share is blocked.
		{TCP, "192.0.2.1:443", []string{"shop.com", "secret.shop.com"}, []string{fmt.Sprintf(block, 1)}},
		{TCP, "[2001:db8::1]:22", nil, nil},
		{TCP, "[2001:db8::1%eth0]:22", nil, nil},
		{TCP, "127.0.0.1:80", nil, []string{fmt.Sprintf(block, 2), none}},
		{TCP, "0.0.0.0:80", nil, []string{fmt.Sprintf(block, 2), none}}, // which the system takes for 127.0.0.1
		{TCP, "[::ffff:0.0.0.0]:80", nil, []string{fmt.Sprintf(block, 2), none}},
	} {
		err := compile(t, Grant{Outgoing: []OutgoingRules{rules}}).Dial(test.proto, netip.MustParseAddrPort(test.dst), test.names)
		if diff := cmp.Diff(test.want, causes(t, err)); diff != "" {
			t.Errorf("%s %s %q: %v\n%s", test.proto, test.dst, test.names, err, diff)
		}
	}
	if err := compile(t, Grant{}).Dial("icmp", netip.MustParseAddrPort("1.2.3.4:5"), nil); err == nil {
		t.Error("an unknown protocol is allowed")
	}
}

// TestDialSeveralPolicies: each policy must allow a destination, and each that does not is named.
func TestDialSeveralPolicies(t *testing.T) {
	e := compile(t, Grant{Outgoing: []OutgoingRules{
		{Policy: "ten", Allow: []Rule{{CIDR: "10.0.0.0/8"}}},
		{Policy: "shop/web", Allow: []Rule{{Ports: []Port{{Port: 443}}}}},
		{Policy: "no-udp", Block: []Rule{{Ports: []Port{{Protocol: UDP}}}}},
		{Policy: "empty", Block: []Rule{}},
	}})
	for dst, want := range map[string][]string{
		"10.1.1.1:443":  nil,
		"10.1.1.1:80":   {"shop/web network.outgoing.allow: no rule matches"},
		"192.0.2.1:443": {"ten network.outgoing.allow: no rule matches"},
		"192.0.2.1:80":  {"ten network.outgoing.allow: no rule matches", "shop/web network.outgoing.allow: no rule matches"},
	} {
		err := e.Dial(TCP, netip.MustParseAddrPort(dst), nil)
		if diff := cmp.Diff(want, causes(t, err)); diff != "" {
			t.Errorf("%s: %s", dst, diff)
		}
	}
	err := e.Dial(UDP, netip.MustParseAddrPort("10.1.1.1:443"), []string{"a.", "b", "c", "d"})
	want := `a UDP datagram to 10.1.1.1:443 (a, b, c and 1 more names) is forbidden by policy "no-udp" (network.outgoing.block[0])`
	if err == nil || err.Error() != want {
		t.Errorf("%v\nand not\n%s", err, want)
	}
	if refusal, ok := errors.AsType[*Refusal](err); !ok || !cmp.Equal(refusal.Policies(), []string{"no-udp"}) {
		t.Errorf("policies of %v", err)
	}
}

// TestSlowNames: a name whose match takes too long is neither allowed nor spared.
func TestSlowNames(t *testing.T) {
	slow := name(`^(?=a)(a+)+\1$`)
	long := []string{strings.Repeat("a", 60) + "!"}
	dst := netip.MustParseAddrPort("192.0.2.1:443")
	for list, rules := range map[string]OutgoingRules{
		"allow": {Policy: "p", Allow: []Rule{{Hostname: slow}}},
		"block": {Policy: "p", Block: []Rule{{Hostname: slow}}},
	} {
		if compile(t, Grant{Outgoing: []OutgoingRules{rules}}).Dial(TCP, dst, long) == nil {
			t.Errorf("%s lets it through", list)
		}
	}
}

func TestFeatures(t *testing.T) {
	e := compile(t, Grant{
		Features: &Features{Profile: "team-base", Incoming: Mirror, UDP: true},
		Incoming: Incoming{Steal: []string{"no-steal"}},
	})
	const with = `, with profile "team-base"`
	dst := netip.MustParseAddrPort("10.0.0.1:80")
	for what, test := range map[string]struct {
		err  error
		want []string
	}{
		"mirror":  {e.Subscribe(Mirror, nil), nil},
		"steal":   {e.Subscribe(Steal, nil), []string{"no-steal block: steal", "feature.network.incoming.mode is mirror" + with}},
		"tcp":     {e.Dial(TCP, dst, nil), []string{"feature.network.outgoing.tcp is false" + with}},
		"udp":     {e.Dial(UDP, dst, nil), nil},
		"resolve": {e.Resolve(), []string{"feature.network.dns.enabled is false" + with}},
	} {
		if diff := cmp.Diff(test.want, causes(t, test.err)); diff != "" {
			t.Errorf("%s: %v\n%s", what, test.err, diff)
		}
	}
	if e.Variable("PATH") {
		t.Error("variables are handed out")
	}
	want := `resolving names in the target is forbidden by what the session was created for (feature.network.dns.enabled is false, with profile "team-base")`
	if got := e.Resolve().Error(); got != want {
		t.Errorf("the message is %s", got)
	}
	off := compile(t, Grant{Features: &Features{Incoming: Off, TCP: true, DNS: true, Env: true}})
	if off.Subscribe(Mirror, nil) == nil || off.Subscribe(Steal, nil) == nil {
		t.Error("incoming traffic is off and can be taken")
	}
	if off.Dial(TCP, dst, nil) != nil || off.Resolve() != nil || !off.Variable("A") {
		t.Error("what the session asked for is refused")
	}
}

func TestVariable(t *testing.T) {
	e := compile(t, Grant{Env: []Exclusion{{"a", []string{"DB_*", "?OKEN"}}, {"b", []string{"*_SECRET"}}}})
	for name, want := range map[string]bool{
		"PATH": true, "DB_": false, "DB_URL": false, "db_url": true, "TOKEN": false, "OKEN": true, "MY_SECRET": false, "MY_SECRETS": true, "": true,
	} {
		if got := e.Variable(name); got != want {
			t.Errorf("%q may be handed out: %t", name, got)
		}
	}
}

func TestCompileReportsAllProblems(t *testing.T) {
	_, err := Grant{
		Incoming: Incoming{HeaderFilters: []HeaderRule{{"a", "("}}},
		Outgoing: []OutgoingRules{{
			Policy: "b",
			Allow:  []Rule{{CIDR: "10.0.0.0"}, {CIDR: "10.0.0.0/8", Except: []string{"x"}}, {Except: []string{"10.0.0.0/8"}}},
			Block:  []Rule{{Hostname: name("[")}, {Ports: []Port{{Protocol: "TCP"}}}, {CIDR: "10.0.0.0/33"}},
		}},
	}.Compile()
	if err == nil {
		t.Fatal("it compiles")
	}
	var got []string
	for line := range strings.SplitSeq(err.Error(), "\n") {
		parts := strings.SplitN(line, ": ", 3)
		got = append(got, parts[0]+" "+parts[1])
	}
	want := []string{
		`policy "a" network.incoming.httpFilter.headerFilter`,
		`policy "b" network.outgoing.allow[0]`, `policy "b" network.outgoing.allow[1]`, `policy "b" network.outgoing.allow[2]`,
		`policy "b" network.outgoing.block[0]`, `policy "b" network.outgoing.block[1]`, `policy "b" network.outgoing.block[2]`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
}

func TestParseCIDR(t *testing.T) {
	for text, want := range map[string]string{
		"10.0.0.7/8": "10.0.0.0/8", "::ffff:10.0.0.0/104": "10.0.0.0/8", "2001:db8::1/32": "2001:db8::/32", "0.0.0.0/0": "0.0.0.0/0", "::/0": "::/0",
	} {
		if got, err := ParseCIDR(text); err != nil || got.String() != want {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "10.0.0.1", "10.0.0.0/33", "shop.com/8", "fe80::1%eth0/64"} {
		if got, err := ParseCIDR(text); err == nil {
			t.Errorf("%q is %v", text, got)
		}
	}
}

// FuzzGrant: whatever a grant says, it compiles or not, and what compiles answers.
func FuzzGrant(f *testing.F) {
	f.Add([]byte(`{"outgoing":[{"policy":"p","allow":[{"cidr":"10.0.0.0/8","except":["10.1.0.0/16"],"hostname":"^a","ports":[{"protocol":"tcp","port":1}]}]}]}`), "a.b")
	f.Add([]byte(`{"incoming":{"headerFilters":[{"policy":"p","pattern":"^(?!x)"}]},"env":[{"policy":"p","patterns":["*"]}]}`), "x")
	f.Fuzz(func(_ *testing.T, data []byte, text string) {
		var g Grant
		if len(data) > 1000 || json.Unmarshal(data, &g) != nil {
			return
		}
		e, err := g.Compile()
		if err != nil {
			return
		}
		_ = e.Subscribe(Steal, &HTTPFilter{Header: text})
		_ = e.Dial(TCP, netip.MustParseAddrPort("10.0.0.1:1"), []string{text})
		_ = e.Variable(text)
		_ = e.File(text, true)
	})
}

func BenchmarkDial(b *testing.B) {
	e := compile(b, Grant{Outgoing: []OutgoingRules{{
		Policy: "p",
		Allow:  []Rule{{CIDR: "10.0.0.0/8", Ports: []Port{{TCP, 443}}}, {Hostname: name(`^([a-z]+\.)*shop\.example$`)}},
		Block:  []Rule{{CIDR: "10.9.0.0/16"}, {Hostname: name(`^secret\.`)}},
	}}})
	dst, names := netip.MustParseAddrPort("192.0.2.1:443"), []string{"api.shop.example"}
	b.ReportAllocs()
	for b.Loop() {
		if err := e.Dial(TCP, dst, names); err != nil {
			b.Fatal(err)
		}
	}
}
