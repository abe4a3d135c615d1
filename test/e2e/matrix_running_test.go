package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

var mirrordPolicies = schema.GroupVersionResource{Group: "policies.mirrord.metalbear.co", Version: "v1alpha", Resource: "mirrordpolicies"}

// runningSteps are what a program tries, and what comes of it: with the policy, and without one. A step is shell; what it prints
// is the outcome. $DB and $WEB are addresses of pods, $MINE is a folder of the laptop.
var runningSteps = []struct{ rule, step, with, without string }{
	{"env.exclude, a name with *", `echo ${DATABASE_URL-none}`, "none", "postgres"},
	{"env.exclude, a name with ?", `echo ${TOKEN-none}`, "none", "secret"},
	{"env.exclude, another name", `echo $SHOP_COLOR`, "green", "green"},

	{"outgoing.allow by address and port", `tcp $DB:9000`, "allowed", "allowed"},
	{"outgoing.allow, another port", `tcp $DB:8090`, "refused", "allowed"},
	{"outgoing.allow by name", `tcp db:9002`, "allowed", "allowed"},
	{"outgoing.allow by name, without it", `tcp $DB:9002`, "refused", "allowed"},
	{"outgoing.allow by range", `tcp $DB:8080`, "allowed", "allowed"},
	{"outgoing.allow by range, with an exception", `tcp $WEB:8080`, "refused", "allowed"},
	{"outgoing.allow by protocol", `udp $DB:9001`, "allowed", "allowed"},
	{"outgoing.allow by protocol, another one", `tcp $DB:9001`, "refused", "ECONNREFUSED"},
	{"outgoing.block by name wins", `tcp blocked:9002`, "refused", "allowed"},
	{"outgoing.block by address wins", `tcp $DB:9003`, "refused", "allowed"},
	{"outgoing.block by address, another one", `tcp db:9003`, "allowed", "allowed"},
}

// filesSteps need the right to mount.
var filesSteps = []struct{ rule, step, with, without string }{
	{"fs.local", `cat $MINE/file 2>/dev/null || echo none`, "from the laptop", "none"},
	{"fs, another file", `cat /etc/shop/shop.conf`, "from the target", "from the target"},
	{"fs.notFound", `cat /etc/shop/other.conf 2>/dev/null || echo none`, "none", "other"},
	{"fs.notFound, in its folder", `ls /etc/shop | tr '\n' ' '`, "shop.conf ", "other.conf shop.conf "},
	{"fs.readOnly", `( echo kept > /data/shop/kept ) 2>/dev/null && echo written || echo refused`, "refused", "written"},
	{"fs.readOnly, another file", `echo free > /data/shop/free && cat /data/shop/free`, "free", "free"},
}

const blockedService = `
apiVersion: v1
kind: Service
metadata: {name: blocked}
spec:
  selector: {app: db}
  ports: [{name: source, port: 9002}]
`

// testRunning has real programs try what agents decide: ann where a policy binds her, ben where none does.
func (m *matrix) testRunning(t *testing.T) {
	steps, mode := runningSteps, "local"
	if os.Geteuid() == 0 {
		steps, mode = append(steps[:len(steps):len(steps)], filesSteps...), "write"
	} else {
		t.Log("without files: to mount them needs root")
	}
	mine := t.TempDir()
	if err := os.WriteFile(filepath.Join(mine, "file"), []byte("from the laptop\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	pod := strings.Replace(filesPod, "    imagePullPolicy: Never\n", `    imagePullPolicy: Never
    env: [{name: DATABASE_URL, value: postgres}, {name: TOKEN, value: secret}, {name: SHOP_COLOR, value: green}]
`, 1)
	stages := map[string]*stage{m.ns: {Env: m.env, ns: m.ns}, m.there: {Env: m.env, ns: m.there}}
	for _, s := range stages {
		s.Apply(t, s.ns, pod+"---"+db+"---"+blockedService)
	}
	for _, s := range stages {
		s.WaitReady(t, s.ns, "pod/web", "pod/db")
		for _, service := range []string{"db", "blocked"} {
			s.served(t, service)
			s.named(t, service)
		}
	}
	s := stages[m.ns]
	web4, _ := s.ips(t, "web")
	db4, _ := s.ips(t, "db")
	m.env.Apply(t, m.ns, fmt.Sprintf(`
apiVersion: policies.mirrord.metalbear.co/v1alpha
kind: MirrordPolicy
metadata: {name: running}
spec:
  targetPath: pod/web
  block: []
  env: {exclude: ["DATABASE_*", "?OKEN"]}
  fs: {local: ["^%s"], notFound: ["OTHER.conf$"], readOnly: ["^/data/shop/kept"]}
  network:
    outgoing:
      allow:
      - {ipBlock: {cidr: %s/32}, ports: [{protocol: TCP, port: 9000}]}
      - {hostname: '^(db|blocked)(\.|$)', ports: [{port: 9002}]}
      - {ipBlock: {cidr: 0.0.0.0/0, except: [%s/32]}, ports: [{protocol: TCP, port: 8080}]}
      - {ports: [{protocol: UDP, port: 9001}]}
      - {ports: [{port: 9003}]}
      block:
      - {hostname: '^blocked(\.|$)'}
      - {ipBlock: {cidr: %[2]s/32}, ports: [{protocol: TCP, port: 9003}]}
`, mine, db4, web4))
	eventually(t, func() error { // until the operator has read it
		made, err := m.ann[m.ns].as(t).create(spec(t, "pod/web"))
		if err != nil {
			return err
		}
		if err := m.ann[m.ns].as(t).end(made.Name); err != nil {
			return err
		}
		if got := strings.Join(made.Status.Policies, " "); !strings.Contains(got, m.ns+"/running") {
			return fmt.Errorf("the session is bound by %s", got)
		}
		return nil
	})
	for _, by := range []struct {
		user  *sessionUser
		bound bool
	}{{m.ann[m.ns], true}, {m.ben[m.there], false}} {
		t.Run(by.user.name, func(t *testing.T) {
			s := stages[by.user.ns]
			web4, _ := s.ips(t, "web")
			db4, _ := s.ips(t, "db")
			var script strings.Builder
			fmt.Fprintf(&script, "DB=%s WEB=%s MINE=%s\n", db4, web4, mine)
			// An answer, the errno for what is forbidden, or all that was said.
			fmt.Fprintf(&script, `probe() { out=$(%s "$@" 2>&1) && echo allowed || case "$out" in *EACCES*) echo refused;; *ECONNREFUSED*) echo ECONNREFUSED;; *) echo "$out";; esac; }
tcp() { probe tcp "$1"; }
udp() { probe udp -send hello "$1"; }
`, built.workload)
			want := map[string]string{}
			for n, step := range steps {
				fmt.Fprintf(&script, "echo \"%d=$( %s )\"\n", n, step.step)
				want[step.rule] = step.without
				if by.bound {
					want[step.rule] = step.with
				}
			}
			se := s.start(t, run{
				config: object{
					"target": s.webTarget(), "operator": true,
					"feature": object{
						"network": object{"incoming": "off", "outgoing": true, "dns": true}, "env": true,
						"fs": object{"mode": mode, "read_only": "^" + mine},
					},
				},
				kubeconfig: by.user.kubeconfig, command: []string{"sh", "-c", script.String()},
			})
			if code := se.wait(); code != 0 {
				t.Errorf("exit code %d", code)
			}
			got := map[string]string{}
			for n, step := range steps {
				_, after, _ := strings.Cut("\n"+se.out.String(), fmt.Sprintf("\n%d=", n))
				got[step.rule], _, _ = strings.Cut(after, "\n")
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("what comes of what the program tries (-want +got):\n%s", diff)
			}
			for _, rule := range []string{"network.outgoing.allow: no rule matches", "network.outgoing.block[0]", "network.outgoing.block[1]"} {
				if said := strings.Contains(se.stderr(), m.ns+"/running") && strings.Contains(se.stderr(), rule); said != by.bound {
					t.Errorf("the user is told of the policy and its rule %q: %t", rule, said)
				}
			}
		})
	}
}
