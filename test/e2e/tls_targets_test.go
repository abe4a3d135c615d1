package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mirrord-go/mirrord/internal/tlsconn/tlstest"
)

const nodeImage = "test.mirrord.local/node:e2e"

// secured is a target that ends TLS itself, with the Secret of its certificate, and the configuration with which agents do
// so in its place. Its arguments name the files /tls/tls.crt and /tls/tls.key.
func secured(a *tlstest.Authority, name, image string, port uint16, alpn string, args ...string) string {
	quoted := func(v any) string {
		b, _ := json.Marshal(v) // strings only
		return string(b)
	}
	pair := a.Issue(name + ".example")
	return fmt.Sprintf(`
apiVersion: v1
kind: Secret
metadata: {name: %[1]s}
stringData: {tls.crt: %[2]s, tls.key: %[3]s, ca.crt: %[4]s}
---
apiVersion: mirrord.metalbear.co/v1alpha
kind: MirrordTlsStealConfig
metadata: {name: %[1]s}
spec:
  targetPath: "pod/%[1]s"
  ports:
  - port: %[5]d
    agentAsServer:
      authentication: {certPem: /tls/tls.crt, keyPem: /tls/tls.key}
      alpnProtocols: %[6]s
    agentAsClient:
      verification: {trustRoots: [/tls/ca.crt]}
---
apiVersion: v1
kind: Pod
metadata: {name: %[1]s}
spec:
  terminationGracePeriodSeconds: 1
  volumes: [{name: tls, secret: {secretName: %[1]s}}]
  containers:
  - name: %[1]s
    image: %[7]s
    imagePullPolicy: Never
    args: %[8]s
    volumeMounts: [{name: tls, mountPath: /tls}]
    readinessProbe: {tcpSocket: {port: %[5]d}, periodSeconds: 1, timeoutSeconds: 60}
`, name, quoted(string(pair.CertPEM)), quoted(string(pair.KeyPEM)), quoted(string(a.PEM)), port, alpn, image, quoted(args))
}

// TestTLSStealTargets steals by a filter from servers that end TLS with other libraries than Go's: Node's HTTP/2, and gRPC.
func TestTLSStealTargets(t *testing.T) {
	s := newStage(t)
	node, grpc := freePort(t), freePort(t)
	authority := tlstest.New(t, "the cluster's authority")
	program := s.protocols(t)
	nodeProgram, err := exec.LookPath("node")
	must(t, err)
	files := map[string]string{"/secure.js": "programs/secure.js"}
	withLibraries(t, files, map[string]string{"/bin/node": nodeProgram})
	s.LoadImage(t, nodeImage, []string{"/bin/node", "/secure.js"}, files)
	s.deploy(t, secured(authority, "node", nodeImage, node, "[h2, http/1.1]", "pod", fmt.Sprint(node), "/tls/tls.crt", "/tls/tls.key")+"---"+
		secured(authority, "grpc", protocolsImage, grpc, "[h2]", "serve", "-name", "pod", "-grpc", fmt.Sprintf(":%d", grpc), "-cert", "/tls/tls.crt", "-key", "/tls/tls.key"),
		"pod/node", "pod/grpc")
	own := tlstest.New(t, "the laptop's authority").Issue("laptop.example")
	cert, key := tlstest.Write(t, "own.crt", own.CertPEM), tlstest.Write(t, "own.key", own.KeyPEM)
	start := func(t *testing.T, target string, port uint16, command ...string) (*session, string) {
		config := s.incoming(object{"mode": "steal", "http_filter": object{"header_filter": "^x-user: me$"}})
		config["target"] = object{"path": "pod/" + target, "namespace": s.ns}
		se := s.start(t, run{config: config, command: command})
		se.subscribed(port)
		ip, _ := s.ips(t, target)
		return se, net.JoinHostPort(ip, fmt.Sprint(port))
	}

	t.Run("node", func(t *testing.T) {
		se, addr := start(t, "node", node, nodeProgram, "programs/secure.js", "laptop", fmt.Sprint(node), cert, key)
		large := strings.Repeat("x", 100_000)
		for _, h2 := range []bool{false, true} {
			c := oneSecure(t, authority, "node.example", addr, h2)
			for round := range 3 {
				for _, r := range []asked{
					{path: "/a"},
					{path: "/b", header: "X-User: me", chosen: true},
					{method: "POST", path: "/c", body: large},
					{method: "POST", path: "/d", body: large, header: "X-User: me", chosen: true},
				} {
					want := map[bool]string{false: "pod", true: "laptop"}[r.chosen]
					a, err := r.do(c, "https://node.example/")
					if err != nil || a.Name != want || a.Path != r.path || a.Size != int64(len(r.body)) || h2 != (a.proto == "HTTP/2.0") {
						t.Fatalf("h2=%v, round %d, %s: want %s, got %+v: %v", h2, round, r.path, want, a, err)
					}
					if r.chosen && !sameAddr(a.Peer, a.local.String()) {
						t.Errorf("the local process saw %s as its peer, the client is %s", a.Peer, a.local)
					}
				}
			}
		}
		se.stop()
	})

	t.Run("grpc", func(t *testing.T) {
		ca := tlstest.Write(t, "ca.crt", authority.PEM)
		se, addr := start(t, "grpc", grpc, program, "serve", "-name", "laptop", "-grpc", fmt.Sprintf(":%d", grpc), "-cert", cert, "-key", key)
		did := strings.Split("unary, client streaming, server streaming, both ways, metadata and trailers, status, timeout, cancel", ", ")
		ask := func(user, want string) {
			t.Helper()
			cmd := exec.CommandContext(t.Context(), program, "grpc", "-ca", ca, "-server-name", "grpc.example", "-metadata", "x-user="+user, addr)
			cmd.WaitDelay = time.Second
			out, err := cmd.Output()
			var d dialogue
			if jerr := json.Unmarshal(out, &d); err != nil || jerr != nil || d.Server != want || !slices.Equal(d.Did, did) {
				t.Errorf("x-user %s: want %s, got %s: %v%s", user, want, out, err, stderrOf(err))
			}
		}
		ask("me", "laptop")
		ask("you", "pod")
		se.stop()
		ask("me", "pod")
	})
}

// stderrOf is what a command that failed has said.
func stderrOf(err error) string {
	if exit, ok := err.(*exec.ExitError); ok { //nolint:errorlint // as os/exec returns it
		return "\n" + string(exit.Stderr)
	}
	return ""
}
