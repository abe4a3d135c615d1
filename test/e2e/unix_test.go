package e2e

import (
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
)

// sockets is a target that listens on Unix sockets. It does not run as root.
const sockets = `
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 1
  securityContext: {runAsUser: 1234, runAsGroup: 1234, fsGroup: 1234}
  volumes: [{name: run, emptyDir: {}}]
  containers:
  - name: web
    image: cluster.local/workload:test
    imagePullPolicy: Never
    args: [serve, -name, pod, -http, ":8080", -unix, "/run/shop/http,@%[1]s,packets:/run/shop/packets"]
    volumeMounts: [{name: run, mountPath: /run/shop}]
    readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1, timeoutSeconds: 60}
`

// TestUnixSockets: sockets of the target are reached by path and by abstract name, and those
// that it does not have stay this machine's.
func TestUnixSockets(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	abstract := "shop-" + s.ns
	s.deploy(t, fmt.Sprintf(sockets, abstract), "pod/web")
	own := filepath.Join(t.TempDir(), "own")
	l, err := net.Listen("unix", own)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, `{"name":"laptop"}`) })}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close(); <-done })

	var list []program
	for _, p := range programs(t) {
		switch p.name {
		case "go-static", "go-dynamic", "node", "curl":
			p.steps = []string{"unix"}
		case "python":
			p.steps = []string{"unix", "packets"}
		default:
			continue
		}
		list = append(list, p)
	}
	path, packets := "unix /run/shop/http", "packets /run/shop/packets"
	steps := []string{path, "unix @" + abstract, packets, "unix " + own, "unix /run/shop/none"}

	t.Run("remote", func(t *testing.T) {
		se := s.start(t, run{
			config:  object{"profile": s.profile(t, "remote", "incoming-off", "outgoing-remote"), "target": s.webTarget()},
			command: inTurn(list, steps...),
		})
		if code := se.wait(); code != 0 {
			t.Errorf("exit code %d", code)
		}
		results := eachResult(se.out.String())
		for _, p := range list {
			t.Run(p.name, func(t *testing.T) {
				p.need(t)
				got := results[p.name]
				for step, want := range map[string]string{path: "pod", steps[1]: "pod", steps[3]: "laptop"} {
					if p.name == "node" && step == steps[1] {
						continue // older ones know no abstract names
					}
					if answerName(got[step]) != want {
						t.Errorf("%s: %s, want %s", step, got[step], want)
					}
				}
				if p.name != "curl" && got[steps[4]] != "ENOENT" {
					t.Errorf("%s: %s", steps[4], got[steps[4]])
				}
				if p.has("packets") && got[packets] != "pod one, pod two" {
					t.Errorf("%s: %s", packets, got[packets])
				}
			})
		}
		if n := strings.Count(se.stderr(), "the target has no socket "+own); n != 1 {
			t.Errorf("the user is told %d times that the laptop's socket is used", n)
		}
	})
	t.Run("some", func(t *testing.T) {
		se := s.start(t, run{
			config: object{"target": s.webTarget(), "feature": object{"network": object{
				"incoming": "off", "outgoing": object{"unix_streams": []string{"^/run/shop/"}},
			}}},
			command: inTurn(list, path, steps[1]),
		})
		if code := se.wait(); code != 0 {
			t.Errorf("exit code %d", code)
		}
		results := eachResult(se.out.String())
		for _, p := range list {
			if got := results[p.name]; answerName(got[path]) != "pod" || answerName(got[steps[1]]) == "pod" {
				t.Errorf("%s: %v", p.name, got)
			}
		}
	})
	t.Run("off", func(t *testing.T) {
		se := s.start(t, run{
			config:  object{"profile": s.profile(t, "off", "incoming-off", "outgoing-off"), "target": s.webTarget()},
			command: inTurn(list, path, "unix "+own),
		})
		if code := se.wait(); code != 0 {
			t.Errorf("exit code %d", code)
		}
		results := eachResult(se.out.String())
		for _, p := range list {
			name, got := p.name, results[p.name]
			if answerName(got[path]) == "pod" || answerName(got["unix "+own]) != "laptop" {
				t.Errorf("%s: %v", name, got)
			}
		}
	})
}
