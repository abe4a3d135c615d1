package e2e

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mirrord-go/mirrord/internal/cli/progress"
	"github.com/mirrord-go/mirrord/internal/tlsconn/tlstest"
	"github.com/mirrord-go/mirrord/test/clustertest"
)

// secureShop is a pod "web" that terminates TLS on a port, which is probed, and the configuration
// with which agents do so in its place.
func (s *stage) secureShop(t *testing.T, port uint16) *tlstest.Authority {
	t.Helper()
	a := tlstest.New(t, "the cluster's authority")
	pair := a.Issue("shop.example")
	quote := func(b []byte) string {
		text, _ := json.Marshal(string(b))
		return string(text)
	}
	s.deploy(t, fmt.Sprintf(`
apiVersion: v1
kind: Secret
metadata: {name: shop-tls}
stringData: {tls.crt: %s, tls.key: %s, ca.crt: %s}
---
apiVersion: mirrord.metalbear.co/v1alpha
kind: MirrordTlsStealConfig
metadata: {name: shop}
spec:
  targetPath: "pod/web*"
  selector: {matchLabels: {app: web}}
  ports:
  - port: %d
    agentAsServer:
      authentication: {certPem: /tls/tls.crt, keyPem: /tls/tls.key}
      alpnProtocols: [h2, http/1.1]
    agentAsClient:
      verification: {trustRoots: [/tls/ca.crt]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 1
  volumes: [{name: tls, secret: {secretName: shop-tls}}]
  containers:
  - name: web
    image: `+clustertest.WorkloadImage+`
    imagePullPolicy: Never
    args: [serve, -admin, ":8090", -http, "", -https, ":%d", -cert, /tls/tls.crt, -key, /tls/tls.key]
    volumeMounts: [{name: tls, mountPath: /tls}]
    readinessProbe: {httpGet: {path: /, port: %d, scheme: HTTPS}, periodSeconds: 1, timeoutSeconds: 60}
    livenessProbe: {httpGet: {path: /, port: %d, scheme: HTTPS}, periodSeconds: 1, timeoutSeconds: 60, failureThreshold: 2}
`, quote(pair.CertPEM), quote(pair.KeyPEM), quote(a.PEM), port, port, port, port), "pod/web")
	return a
}

// oneSecure is a client that has one connection to the address, inside of TLS, which verifies the server's name.
func oneSecure(t *testing.T, a *tlstest.Authority, name, addr string, h2 bool) *http.Client {
	t.Helper()
	tr := &http.Transport{
		MaxConnsPerHost: 1, Protocols: new(http.Protocols),
		TLSClientConfig: &tls.Config{RootCAs: a.Pool, ServerName: name},
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		},
	}
	tr.Protocols.SetHTTP1(!h2)
	tr.Protocols.SetHTTP2(h2)
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: patience}
}

// secureLaptop is a local process of each kind, which calls itself "laptop".
// The deliveries verify the two with TLS, each in another way.
func secureLaptop(t *testing.T, port uint16) (goServer, plain, python []string, byCert, byRoots object) {
	t.Helper()
	authority := tlstest.New(t, "the laptop's authority")
	own := authority.Issue("laptop.example")
	cert, key := tlstest.Write(t, "own.crt", own.CertPEM), tlstest.Write(t, "own.key", own.KeyPEM)
	byCert = object{"server_cert": cert, "client_cert": cert, "client_key": key}
	byRoots = object{"trust_roots": []string{tlstest.Write(t, "ca.crt", authority.PEM)}, "server_name": "laptop.example"}
	goServer = []string{built.workload, "serve", "-name", "laptop", "-http", "", "-https", fmt.Sprintf(":%d", port), "-cert", cert, "-key", key}
	plain = laptop("laptop", port)
	script := filepath.Join(t.TempDir(), "server.py")
	if err := os.WriteFile(script, []byte(`
import http.server, json, ssl, sys
class Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        b = json.dumps({"name": "laptop", "peer": "%s:%d" % self.client_address[:2], "size": 0}).encode()
        self.send_response(200); self.send_header("Content-Length", str(len(b))); self.end_headers(); self.wfile.write(b)
s = http.server.ThreadingHTTPServer(("", int(sys.argv[1])), Echo)
c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); c.load_cert_chain(sys.argv[2], sys.argv[3]); c.set_alpn_protocols(["http/1.1"])
s.socket = c.wrap_socket(s.socket, server_side=True)
s.serve_forever()
`), 0o600); err != nil {
		t.Fatal(err)
	}
	return goServer, plain, []string{"python3", script, fmt.Sprint(port), cert, key}, byCert, byRoots
}

// TestTLSSteal steals some of the requests of an application that terminates TLS itself: its clients
// see its certificate throughout, the others' requests stay with it, and so do its probes.
func TestTLSSteal(t *testing.T) {
	s := newStage(t)
	port := freePort(t)
	authority := s.secureShop(t, port)
	ip4, _ := s.ips(t, "web")
	addr := net.JoinHostPort(ip4, fmt.Sprint(port))
	goServer, plain, python, byCert, byRoots := secureLaptop(t, port)
	requests := []asked{{path: "/"}, {path: "/", header: "X-User: me", chosen: true}, {path: "/", header: "X-User: you"}}
	for _, tt := range []struct {
		name     string
		delivery object
		command  []string
		h2       bool
		program  string
	}{
		{"in TLS", nil, goServer, true, ""},
		{"plain", object{"protocol": "tcp"}, plain, true, ""},
		{"in TLS, its certificate", byCert, goServer, false, ""},
		{"python in TLS, signed", byRoots, python, false, "python3"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.program != "" {
				if _, err := exec.LookPath(tt.program); err != nil {
					t.Skipf("%s is not installed", tt.program)
				}
			}
			incoming := object{"mode": "steal", "http_filter": object{"header_filter": "^x-user: me$"}}
			if tt.delivery != nil {
				incoming["tls_delivery"] = tt.delivery
			}
			se := s.start(t, run{config: s.incoming(incoming), command: tt.command})
			se.subscribed(port)
			protocols := []bool{false}
			if tt.h2 {
				protocols = append(protocols, true)
			}
			for _, h2 := range protocols {
				c := oneSecure(t, authority, "shop.example", addr, h2)
				for round := range 3 {
					for _, r := range requests {
						want := map[bool]string{false: "web", true: "laptop"}[r.chosen]
						a, err := r.do(c, "https://shop.example/")
						switch {
						case err != nil:
							t.Fatalf("h2=%v, round %d, %+v: %v", h2, round, r, err)
						case a.Name != want:
							t.Errorf("h2=%v, round %d, %+v: answered by %s, not by %s", h2, round, r, a.Name, want)
						case h2 != (a.proto == "HTTP/2.0"):
							t.Errorf("h2=%v: the answer came over %s", h2, a.proto)
						case r.chosen && !sameAddr(a.Peer, a.local.String()):
							t.Errorf("the local process saw %s as its peer, the client is %s", a.Peer, a.local)
						}
					}
				}
			}
			se.stop()
		})
	}
	if n := s.Pod(t, s.ns, "web").Status.ContainerStatuses[0].RestartCount; n != 0 {
		t.Errorf("the pod was restarted %d times: its probes failed", n)
	}
}

// TestTLSStays: without a configuration, TLS goes to the application as it is, and the user reads why;
// so do requests that the local process can't be given.
func TestTLSStays(t *testing.T) {
	s := newStage(t)
	port := freePort(t)
	authority := s.secureShop(t, port)
	ip4, _ := s.ips(t, "web")
	addr := net.JoinHostPort(ip4, fmt.Sprint(port))
	mine := asked{path: "/", header: "X-User: me"}
	config := s.incoming(object{"mode": "steal", "http_filter": object{"header_filter": "^x-user: me$"}})
	staysWithWeb := func(t *testing.T, says string) {
		t.Helper()
		se := s.start(t, run{config: config, command: laptop("laptop", port)})
		se.subscribed(port)
		a, err := mine.do(oneSecure(t, authority, "shop.example", addr, false), "https://shop.example/")
		if err != nil || a.Name != "web" {
			t.Errorf("answered by %s: %v", a.Name, err)
		}
		se.event(says, func(l progress.Line) bool { return strings.Contains(l.Text, says) })
		se.stop()
	}
	t.Run("a process without TLS", func(t *testing.T) { staysWithWeb(t, `set "tls_delivery": {"protocol": "tcp"}`) })
	if out, err := s.Kubectl(t, s.Kubeconfig, nil, "-n", s.ns, "delete", "mirrordtlsstealconfig", "shop"); err != nil {
		t.Fatalf("deleting the configuration: %v\n%s", err, out)
	}
	t.Run("no configuration", func(t *testing.T) { staysWithWeb(t, "A MirrordTlsStealConfig in the cluster changes that") })
}

// TestHostname: the local process has the target's host name, unless the user wants its own.
func TestHostname(t *testing.T) {
	s := newStage(t)
	s.deploy(t, web([]uint16{8080}), "pod/web")
	own, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for want, feature := range map[string]object{"web": {}, own: {"hostname": false}} {
		se := s.start(t, run{config: object{"target": s.webTarget(), "feature": feature}, command: []string{"uname", "-n"}})
		if code := se.wait(); code != 0 || strings.TrimSpace(se.out.String()) != want {
			t.Errorf("%v: exit code %d, %q, want %q\n%s", feature, code, se.out.String(), want, se.stderr())
		}
	}
}

// TestTLSStealOperator: with an operator, its word counts.
func TestTLSStealOperator(t *testing.T) {
	i := withoutOperator(t)
	s := &stage{Env: i.env, ns: i.env.Namespace(t)}
	i.mustInstall()
	port := freePort(t)
	authority := s.secureShop(t, port)
	ip4, _ := s.ips(t, "web")
	config := s.incoming(object{
		"mode": "steal", "http_filter": object{"header_filter": "^x-user: me$"}, "tls_delivery": object{"protocol": "tcp"},
	})
	config["operator"] = true
	se := s.start(t, run{config: config, command: laptop("laptop", port)})
	se.subscribed(port)
	c := oneSecure(t, authority, "shop.example", net.JoinHostPort(ip4, fmt.Sprint(port)), true)
	for header, want := range map[string]string{"X-User: me": "laptop", "X-User: you": "web"} {
		if a, err := (asked{path: "/", header: header}).do(c, "https://shop.example/"); err != nil || a.Name != want {
			t.Errorf("%s: answered by %s, not by %s: %v", header, a.Name, want, err)
		}
	}
	se.stop()
}
