package e2e

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// inside is a server that only the target's own localhost has, in the pod of [web].
const inside = 7070

// insider is [web] with that server, and hosts as aliases.
func insider() string {
	return web([]uint16{8080}, `hostAliases: [{ip: 192.0.2.10, hostnames: [legacy.example.com, legacy]}]`) + fmt.Sprintf(`
  - name: inside
    image: cluster.local/workload:test
    imagePullPolicy: Never
    args: [serve, -name, inside, -http, "127.0.0.1:%d,[::1]:%[1]d"]
`, inside)
}

// errnoInPod is what a program in the target's pod sees of a connection: an errno's name.
func (s *stage) errnoInPod(t *testing.T, network, address string, flags ...string) string {
	t.Helper()
	args := append([]string{"/bin/workload", network}, flags...)
	res := s.Exec(t, s.ns, "web", "web", append(args, address)...)
	var p struct{ Errno, Error string }
	if err := json.Unmarshal([]byte(res.Stdout), &p); err != nil || p.Errno == "" {
		t.Fatalf("%s %s in the pod: %s%s", network, address, res.Stdout, res.Stderr)
	}
	return p.Errno
}

// TestOutgoing shows both adjustments of outgoing traffic with every program.
func TestOutgoing(t *testing.T) {
	s := newStage(t)
	s.deploy(t, insider()+"---"+db, "pod/web", "pod/db")
	t.Run("remote", func(t *testing.T) { testOutgoingRemote(t, s) })
	t.Run("off", func(t *testing.T) { testOutgoingOff(t, s) })
}

// testOutgoingRemote: what a program connects to sees the pod's address, whatever the program
// and the protocol; what fails, fails as in the pod; and localhost is the pod's.
func testOutgoingRemote(t *testing.T, s *stage) {
	web4, web6 := s.ips(t, "web")
	db4, db6 := s.ips(t, "db")
	nobody := s.absent(t, db4)
	refused := []string{"tcp " + db4 + " 81", "tcp " + db6 + " 81", "udp " + db4 + " 81", "udp " + db6 + " 81", "tcp localhost 7071"}
	failures := map[string]string{
		refused[0]:                s.errnoInPod(t, "tcp", db4+":81"),
		refused[1]:                s.errnoInPod(t, "tcp", "["+db6+"]:81"),
		refused[2]:                s.errnoInPod(t, "udp", db4+":81", "-send", "hello"),
		refused[3]:                s.errnoInPod(t, "udp", "["+db6+"]:81", "-send", "hello"),
		refused[4]:                s.errnoInPod(t, "tcp", "127.0.0.1:7071"),
		"tcp " + nobody + " 80":   s.errnoInPod(t, "tcp", nobody+":80"),
		"tcp 198.51.100.1 80":     s.errnoInPod(t, "tcp", "198.51.100.1:80"),
		"tcp 2001:db8:ffff::1 80": s.errnoInPod(t, "tcp", "[2001:db8:ffff::1]:80"),
	}
	for _, step := range refused {
		if failures[step] != "ECONNREFUSED" {
			t.Errorf("%s in the pod: %s", step, failures[step])
		}
	}
	t.Logf("in the pod: %v", failures)
	from4 := []string{
		"tcp db 8080", "tcp " + db4 + " 8080", "tcp db." + s.ns + ".svc.cluster.local 8080",
		"udp db 9001", "udpto db 9001", "udp " + db4 + " 9001", "udpto " + db4 + " 9001",
	}
	from6 := []string{"tcp " + db6 + " 8080", "udp " + db6 + " 9001", "udpto " + db6 + " 9001"}
	local := []string{fmt.Sprintf("tcp localhost %d", inside), fmt.Sprintf("tcp 127.0.0.1 %d", inside), fmt.Sprintf("tcp ::1 %d", inside)}

	ref := s.profile(t, "remote", "outgoing-remote")
	for _, p := range programs(t) {
		t.Run(p.name, func(t *testing.T) {
			p.need(t)
			t.Parallel() // they wait rather than work
			steps := append(append(append([]string{}, from4...), from6...), local...)
			for step := range failures {
				steps = append(steps, step)
			}
			se := s.start(t, run{
				config:  object{"profile": ref, "target": s.webTarget()},
				command: p.command(steps...),
			})
			if code := se.wait(); code != 0 {
				t.Errorf("exit code %d", code)
			}
			got := readResults(se.out.String())
			t.Logf("the process ran after %.1f s", *se.started().Seconds)
			for _, step := range p.those(append(from4, from6...)) {
				// By name, either family will do.
				if peer := got.peer(t, step); peer.String() != web4 && peer.String() != web6 {
					t.Errorf("%s: the server saw %s, the pod is %s and %s", step, peer, web4, web6)
				}
			}
			for _, step := range p.those(local) {
				if name := answerName(got[step]); name != "inside" {
					t.Errorf("%s: %s", step, got[step])
				}
			}
			for step, want := range failures {
				if len(p.those([]string{step})) > 0 && got[step] != want {
					t.Errorf("%s: %s, in the pod %s", step, got[step], want)
				}
			}
		})
	}
}

// those are the steps that the program has.
func (p program) those(steps []string) []string {
	var list []string
	for _, s := range steps {
		if argv := p.command(s); len(argv) > len(p.argv) {
			list = append(list, s)
		}
	}
	return list
}

// answerName is the name in a workload's answer to a tcp step.
func answerName(result string) string {
	var echo struct{ Name string }
	_ = json.Unmarshal([]byte(result), &echo)
	return echo.Name
}

// absent is an address of a pod's network that no pod has, nor will have soon: pods get
// their addresses in order.
func (s *stage) absent(t *testing.T, pod string) string {
	t.Helper()
	list, err := s.Client.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	for _, p := range list.Items {
		used[p.Status.PodIP] = true
	}
	b := netip.MustParseAddr(pod).As4()
	for i := range 100 {
		b[3] = byte(2 + (int(b[3])+100+i)%250)
		if ip := netip.AddrFrom4(b).String(); !used[ip] {
			return ip
		}
	}
	t.Fatal("no address is unused")
	return ""
}

// testOutgoingOff: the same connections leave from this machine, and what only the pod can
// reach is out of reach. Names resolve as in the pod all the same.
func testOutgoingOff(t *testing.T, s *stage) {
	db4, db6 := s.ips(t, "db")
	steps := []string{"tcp " + db4 + " 8080", "tcp " + db6 + " 8080", "udp " + db4 + " 9001", "udpto " + db4 + " 9001", "udp " + db6 + " 9001"}
	refused := []string{fmt.Sprintf("tcp localhost %d", inside), fmt.Sprintf("tcp 127.0.0.1 %d", inside), "tcp " + db4 + " 81"}
	byName := []string{"tcp db 8080", "resolve db"}

	want := programs(t)[0].direct(t, steps...)
	se := s.start(t, run{
		config:  object{"profile": s.profile(t, "off", "outgoing-off"), "target": s.webTarget()},
		command: inTurn(programs(t), append(append(steps, refused...), byName...)...),
	})
	if code := se.wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	web4, web6 := s.ips(t, "web")
	results := eachResult(se.out.String())
	for _, p := range programs(t) {
		t.Run(p.name, func(t *testing.T) {
			p.need(t)
			got := results[p.name]
			for _, step := range p.those(steps) {
				if a, b := got.peer(t, step), want.peer(t, step); a != b {
					t.Errorf("%s: the server saw %s, and without a session %s", step, a, b)
				}
			}
			for _, step := range p.those(refused) {
				if got[step] != "ECONNREFUSED" {
					t.Errorf("%s: %s", step, got[step])
				}
			}
			for _, step := range p.those(byName[:1]) {
				if peer := got.peer(t, step); peer.String() == web4 || peer.String() == web6 {
					t.Errorf("%s: the server saw the pod, %s", step, peer)
				}
			}
			if a := got["resolve db"]; p.has("resolve") && (a == "" || a == "nxdomain") {
				t.Errorf("db resolves to %s", a)
			}
		})
	}
}
