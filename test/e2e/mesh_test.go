package e2e

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mirrord-go/mirrord/test/clustertest"
)

// meshImage has iptables beside the workload.
const meshImage = "test.mirrord.local/mesh:e2e"

// loadMesh makes the image of a mesh's init container and sidecar.
func (s *stage) loadMesh(t *testing.T) {
	t.Helper()
	files := map[string]string{"/bin/workload": built.workload}
	withLibraries(t, files, map[string]string{"/bin/sh": "/bin/busybox", "/bin/iptables": "/usr/sbin/xtables-nft-multi", "/bin/ip6tables": "/usr/sbin/xtables-nft-multi"})
	extensions, err := filepath.Glob("/usr/lib/*/xtables/*.so")
	if err != nil || len(extensions) == 0 {
		t.Fatalf("no extensions of iptables: %v", err)
	}
	for _, e := range extensions {
		files[e] = e
	}
	s.LoadImage(t, meshImage, []string{"/bin/workload"}, files)
}

// redirect are the rules with which the init containers of Istio and Linkerd give a pod's connections to its sidecar:
// those that arrive, and those that leave but for the sidecar's own and those that stay in the pod.
const redirect = `set -e
for iptables in iptables ip6tables; do
  $iptables -t nat -N MESH_INBOUND
  $iptables -t nat -A MESH_INBOUND -p tcp --dport 15006 -j RETURN
  $iptables -t nat -A MESH_INBOUND -p tcp --dport 8090 -j RETURN
  $iptables -t nat -A MESH_INBOUND -p tcp -j REDIRECT --to-ports 15006
  $iptables -t nat -A PREROUTING -p tcp -j MESH_INBOUND
  $iptables -t nat -N MESH_OUTPUT
  $iptables -t nat -A MESH_OUTPUT -m owner --uid-owner 1337 -j RETURN
  $iptables -t nat -A MESH_OUTPUT -o lo -j RETURN
  $iptables -t nat -A MESH_OUTPUT -p tcp -j REDIRECT --to-ports 15001
  $iptables -t nat -A OUTPUT -p tcp -j MESH_OUTPUT
done`

// meshed is the pod "web", which serves HTTP on 8080, in a mesh.
func meshed(t *testing.T) string {
	t.Helper()
	script, err := json.Marshal(redirect)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 1
  initContainers:
  - name: mesh-init
    image: %[1]s
    imagePullPolicy: Never
    command: [/bin/sh, -c, %[3]s]
    env: [{name: XTABLES_LOCKFILE, value: /tmp/xtables.lock}]
    securityContext: {capabilities: {add: [NET_ADMIN, NET_RAW]}}
  containers:
  - name: web
    image: %[2]s
    imagePullPolicy: Never
    args: [serve, -admin, ":8090", -http, ":8080"]
    readinessProbe: {tcpSocket: {port: 8090}, periodSeconds: 1, timeoutSeconds: 60}
  - name: istio-proxy
    image: %[1]s
    imagePullPolicy: Never
    args: [sidecar]
    securityContext: {runAsUser: 1337}
`, meshImage, clustertest.WorkloadImage, script)
}

// passed is a connection that a sidecar has carried.
type passed struct {
	Way, From, To, Error string
	TLS                  bool
}

// passed is what the sidecar of the pod "web" has said.
func (s *stage) passed(t *testing.T) []passed {
	t.Helper()
	var all []passed
	for d := json.NewDecoder(strings.NewReader(s.Logs(t, s.ns, "web", "istio-proxy"))); d.More(); {
		var p passed
		if err := d.Decode(&p); err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	return all
}

// TestMesh has a pod whose connections are redirected to a sidecar, which ends TLS. The mesh works on during sessions;
// a local process gets what the application would get from the sidecar, and its connections leave through the sidecar.
func TestMesh(t *testing.T) {
	s := newStage(t)
	s.loadMesh(t)
	s.deploy(t, meshed(t)+"---"+db+"---"+client, "pod/web", "pod/db", "pod/client")
	web4, web6 := s.ips(t, "web")
	db4, _ := s.ips(t, "db")
	secure := func(ip string) string { return strings.Replace(url(ip, 8080), "http:", "https:", 1) }
	urls := []string{url(web4, 8080), url(web6, 8080), secure(web4), secure(web6)}
	answeredBy := func(t *testing.T, name string) {
		t.Helper()
		for _, u := range urls {
			if a := s.ask(t, u); a.Error != "" || a.Echo == nil || a.Echo.Name != name {
				t.Errorf("%s was answered by %+v, want %s", u, a, name)
			}
		}
	}
	eventually(t, func() error { // the sidecar may have been started later
		for _, u := range urls {
			if a := s.ask(t, u); a.Error != "" {
				return fmt.Errorf("%s: %+v", u, a)
			}
		}
		return nil
	})
	answeredBy(t, "web")
	eventually(t, func() error { // what it says takes a while to be read
		all := s.passed(t)
		secure := slices.ContainsFunc(all, func(p passed) bool { return p.TLS && p.Way == "inbound" })
		if !secure || len(all) < len(urls) {
			return fmt.Errorf("the mesh does not do what it is for: %+v", all)
		}
		return nil
	})

	for _, mode := range []string{"steal", "mirror"} {
		for _, ephemeral := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/ephemeral=%t", mode, ephemeral), func(t *testing.T) {
				if mode == "mirror" && ephemeral {
					t.Skip("the agent is the same")
				}
				se := s.start(t, run{
					config: object{
						"target": object{"path": "pod/web/container/web", "namespace": s.ns}, "agent": object{"ephemeral": ephemeral},
						"feature": object{"network": object{"incoming": object{"mode": mode, "port_mapping": [][]int{{18080, 8080}}}}},
					},
					command: []string{built.workload, "serve", "-name", "laptop", "-http", "127.0.0.1:18080", "-admin", "127.0.0.1:0"},
				})
				se.subscribed(8080)
				if mode == "steal" {
					answeredBy(t, "laptop")
				} else {
					answeredBy(t, "web")
				}
				se.stop()
				answeredBy(t, "web")
			})
		}
	}
	t.Run("outgoing", func(t *testing.T) {
		se := s.start(t, run{
			config:  object{"target": s.webTarget(), "feature": object{"network": object{"outgoing": true}}},
			command: []string{built.workload, "get", url(db4, 8080)},
		})
		if code := se.wait(); code != 0 {
			t.Fatalf("exit code %d", code)
		}
		var a answer
		if err := json.Unmarshal([]byte(se.out.String()), &a); err != nil || a.Echo == nil || !sameHost(a.Echo.Peer, web4) {
			t.Fatalf("%v: %s", err, se.out.String())
		}
		eventually(t, func() error {
			for _, p := range slices.Backward(s.passed(t)) {
				if p.Way == "outbound" && p.To == db4+":8080" && p.Error == "" {
					return nil
				}
			}
			return fmt.Errorf("the sidecar did not see the connection: %+v", s.passed(t))
		})
	})
}
