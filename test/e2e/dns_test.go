package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

// named are names of more kinds than a Service with an address: without one, and for one
// outside of the cluster.
const named = `
apiVersion: v1
kind: Service
metadata: {name: headless}
spec:
  clusterIP: None
  ipFamilyPolicy: PreferDualStack
  selector: {app: db}
  ports: [{name: http, port: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: external}
spec: {type: ExternalName, externalName: alias.mirrord.test}
`

// lookedUp is what a lookup in the target's pod gives.
type lookedUp struct {
	Name    string   `json:"name"`
	Answers []string `json:"answers"`
	Rcode   string   `json:"rcode"`
	Error   string   `json:"error"`
	Absent  bool     `json:"absent"`
}

// lookUpInPod looks names up in the target's pod.
func (s *stage) lookUpInPod(t *testing.T, args ...string) map[string]lookedUp {
	t.Helper()
	res := s.Exec(t, s.ns, "web", "web", append([]string{"/bin/workload", "dns"}, args...)...)
	all := map[string]lookedUp{}
	for line := range strings.Lines(res.Stdout) {
		var l lookedUp
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatalf("%s%s", res.Stdout, res.Stderr)
		}
		all[l.Name] = l
	}
	return all
}

// TestDNS shows both adjustments of name resolution with every program.
func TestDNS(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.deploy(t, insider()+"---"+db+"---"+named, "pod/web", "pod/db")
	ref := s.profile(t, "remote", "dns-remote")
	t.Run("remote", func(t *testing.T) { testDNSRemote(t, s, ref) })
	t.Run("records", func(t *testing.T) { testDNSRecords(t, s, ref) })
	t.Run("off", func(t *testing.T) { testDNSOff(t, s) })
}

// testDNSRemote: names resolve as in the pod, for every program.
func testDNSRemote(t *testing.T, s *stage, ref string) {
	names := []string{
		"db", "db." + s.ns, "db." + s.ns + ".svc", "db." + s.ns + ".svc.cluster.local", "headless", "external",
		"kubernetes.default", "machine.mirrord.test", "alias2.mirrord.test", "only4.mirrord.test", "only6.mirrord.test",
		"many.mirrord.test", // too long for a datagram
		"legacy.example.com", "legacy", "web",
		"nothing", "nothing." + s.ns + ".svc.cluster.local", "nothing.example.com",
	}
	var want map[string]lookedUp
	eventually(t, func() error {
		want = s.lookUpInPod(t, names...)
		for _, n := range names {
			if l := want[n]; len(l.Answers) == 0 != strings.HasPrefix(n, "nothing") || len(l.Answers) == 0 && !l.Absent {
				return fmt.Errorf("in the pod %s resolves to %v, %s", n, l.Answers, l.Error)
			}
		}
		return nil
	})
	var steps []string
	for _, n := range names {
		steps = append(steps, "resolve "+n)
	}
	ares := []string{"ares db", "ares db." + s.ns + ".svc.cluster.local", "ares external", "ares nothing"}
	list := programs(t)
	for i, p := range list {
		if p.name == "node" {
			list = slices.Clone(list)
			list[i].steps = append(slices.Clone(p.steps), "ares")
		}
	}
	se := s.start(t, run{
		config:  object{"profile": ref, "target": s.webTarget()},
		command: inTurn(list, append(steps, ares...)...),
	})
	if code := se.wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	got := eachResult(se.out.String())
	for _, p := range list {
		t.Run(p.name, func(t *testing.T) {
			p.need(t)
			for _, step := range p.those(append(steps, ares...)) {
				name := strings.Fields(step)[1]
				in := inOrder(want[name].Answers)
				if want[name].Absent {
					in = "nxdomain"
				}
				result := got[p.name].addresses(step)
				// musl 1.2.3 takes what is left of an answer that was cut.
				part := p.name == "curl" || p.name == "c-musl-static" && name == "many.mirrord.test"
				if result != in && !(part && someOf(result, in)) {
					t.Errorf("%s: %s, in the pod %s", step, result, in)
				}
			}
		})
	}
}

// someOf tells whether all addresses of a result, at least one, are among others. That is
// what there is to see of curl, which tries no more addresses once something answers.
func someOf(result, addresses string) bool {
	some, all := strings.Fields(result), strings.Fields(addresses)
	return len(some) > 0 && !slices.ContainsFunc(some, func(ip string) bool { return !slices.Contains(all, ip) })
}

// digs runs dig for records of types and names in a session, and returns status and records.
func (s *stage) digs(t *testing.T, profile string, questions ...string) results {
	t.Helper()
	if _, err := exec.LookPath("dig"); err != nil {
		program{name: "dig", missing: err.Error()}.need(t)
	}
	src, err := filepath.Abs("programs/dig.sh")
	if err != nil {
		t.Fatal(err)
	}
	argv := []string{"sh", src}
	for _, q := range questions {
		argv = append(append(argv, "dig"), strings.Fields(q)...)
	}
	se := s.start(t, run{config: object{"profile": profile, "target": s.webTarget()}, command: argv})
	if code := se.wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	return readResults(se.out.String())
}

// testDNSRecords: records of all types and the exact status arrive as in the pod.
func testDNSRecords(t *testing.T, s *stage, ref string) {
	zone := s.ns + ".svc.cluster.local"
	db4, db6 := s.ips(t, "db")
	questions := []string{
		"A db." + zone, "AAAA db." + zone, "A headless." + zone, "AAAA headless." + zone,
		"SRV _http._tcp.db." + zone, "SRV _http._tcp.headless." + zone, "CNAME external." + zone, "A external." + zone,
		"A machine.mirrord.test", "MX mirrord.test", "NS mirrord.test", "SOA mirrord.test", "TXT text.mirrord.test",
		"SRV _http._tcp.mirrord.test", "CAA caa.mirrord.test", "A x.wild.mirrord.test", "A many.mirrord.test", "CNAME alias.mirrord.test",
		"ANY mirrord.test", "AAAA only4.mirrord.test", "A nothing." + zone, "A nothing.mirrord.test", "TXT nothing.example.com",
		"PTR " + reverse(t, db4), "PTR " + reverse(t, db6),
	}
	got := s.digs(t, ref, questions...)
	empty := 0
	for _, q := range questions {
		kind, name, _ := strings.Cut(q, " ")
		l := s.lookUpInPod(t, "-type", kind, name)[name]
		var records []string
		for _, r := range l.Answers {
			records = append(records, strings.Join(strings.Fields(r), " "))
		}
		slices.Sort(records)
		want := l.Rcode + " " + strings.Join(records, "|")
		if diff := cmp.Diff(want, got["dig "+q]); diff != "" {
			t.Errorf("%s (-in the pod +in the session):\n%s", q, diff)
		}
		if len(records) == 0 {
			empty++
		}
		t.Logf("%s: %s", q, want)
	}
	// Three names are not there, one has no IPv6 address, and this server minds ANY (RFC 8482).
	if empty != 5 {
		t.Errorf("%d questions have no answer in the pod, want 5", empty)
	}
}

// reverse is the name of an address for PTR queries.
func reverse(t *testing.T, ip string) string {
	t.Helper()
	name, err := dns.ReverseAddr(ip)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSuffix(name, ".")
}

// testDNSOff: names of the cluster do not resolve, local ones do, as without a session; and
// connections by address leave from the pod all the same.
func testDNSOff(t *testing.T, s *stage) {
	web4, web6 := s.ips(t, "web")
	db4, db6 := s.ips(t, "db")
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	absent := []string{"resolve db", "resolve db." + s.ns + ".svc.cluster.local", "resolve legacy.example.com", "resolve machine.mirrord.test"}
	local := []string{"resolve localhost", "resolve " + host}
	remote := []string{"tcp " + db4 + " 8080", "tcp " + db6 + " 8080", "udp " + db4 + " 9001"}
	profile := s.profile(t, "off", "dns-off", "outgoing-remote")
	se := s.start(t, run{
		config:  object{"profile": profile, "target": s.webTarget()},
		command: inTurn(programs(t), slices.Concat(absent, local, remote)...),
	})
	if code := se.wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	results := eachResult(se.out.String())
	for _, p := range programs(t) {
		t.Run(p.name, func(t *testing.T) {
			p.need(t)
			got, direct := results[p.name], p.direct(t, local...)
			for _, step := range p.those(absent) {
				if got[step] != "nxdomain" {
					t.Errorf("%s: %s", step, got[step])
				}
			}
			for _, step := range p.those(local) {
				a, b := got.addresses(step), direct.addresses(step)
				if a == "nxdomain" || a != b && !(p.name == "curl" && someOf(a, b)) {
					t.Errorf("%s: %s, without a session %s", step, a, b)
				}
			}
			for _, step := range p.those(remote) {
				if peer := got.peer(t, step); peer.String() != web4 && peer.String() != web6 {
					t.Errorf("%s: the server saw %s, the pod is %s and %s", step, peer, web4, web6)
				}
			}
		})
	}
	t.Run("dig", func(t *testing.T) {
		q := "A db." + s.ns + ".svc.cluster.local"
		if got := s.digs(t, profile, q)["dig "+q]; strings.HasPrefix(got, "NOERROR") {
			t.Errorf("%s: %s", q, got)
		}
	})
}
