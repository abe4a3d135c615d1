package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	protocolsImage = "test.mirrord.local/protocols:e2e"
	postgresImage  = "test.mirrord.local/postgres:e2e"
	redisImage     = "test.mirrord.local/redis:e2e"
)

// dialogue is what a client of test/protocols says about its server.
type dialogue struct {
	Server string   `json:"server"`
	Peer   string   `json:"peer"`
	Did    []string `json:"did"`
}

// protocols builds test/protocols and gives it to the node as an image.
func (s *stage) protocols(t *testing.T) (program string) {
	t.Helper()
	program = filepath.Join(t.TempDir(), "protocols")
	cmd := exec.Command("go", "build", "-trimpath", "-o", program, ".")
	cmd.Dir = filepath.Join("..", "protocols")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building test/protocols: %v\n%s", err, out)
	}
	s.LoadImage(t, protocolsImage, []string{"/bin/protocols"}, map[string]string{"/bin/protocols": program})
	return program
}

// withLibraries adds programs to the files of an image, with the libraries that they load.
func withLibraries(t *testing.T, files map[string]string, programs map[string]string) {
	t.Helper()
	for path, program := range programs {
		real, err := filepath.EvalSymlinks(program)
		if err != nil {
			t.Fatal(err)
		}
		files[path] = real
		out, err := exec.Command("ldd", real).CombinedOutput()
		if err != nil && !bytes.Contains(out, []byte("not a dynamic executable")) && !bytes.Contains(out, []byte("statically linked")) {
			t.Fatalf("ldd %s: %v\n%s", real, err, out)
		}
		for field := range strings.FieldsSeq(string(out)) {
			if !filepath.IsAbs(field) || strings.HasSuffix(field, ":") {
				continue
			}
			if files[field], err = filepath.EvalSymlinks(field); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// folder adds the files of a folder to those of an image, at the same paths.
func folder(t *testing.T, files map[string]string, dir string, skip func(path string) bool) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || skip(path) {
			return err
		}
		files[path], err = filepath.EvalSymlinks(path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// postgresVersion returns the folder of the PostgreSQL server of this machine.
func postgresVersion(t *testing.T) (dir, version string) {
	t.Helper()
	dirs, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil || len(dirs) == 0 {
		t.Fatal("no PostgreSQL server is installed: hack/deps.sh installs it")
	}
	dir = filepath.Dir(filepath.Dir(slices.Max(dirs)))
	return dir, filepath.Base(dir)
}

// loadPostgres makes an image of the PostgreSQL server that this machine has, and returns its
// client and the shell's commands that start the server.
func (s *stage) loadPostgres(t *testing.T) (psql, start string) {
	t.Helper()
	dir, version := postgresVersion(t)
	passwd := filepath.Join(t.TempDir(), "passwd")
	if err := os.WriteFile(passwd, []byte("postgres:x:70:70::/data:/bin/sh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{"/etc/passwd": passwd}
	withLibraries(t, files, map[string]string{
		dir + "/bin/postgres": dir + "/bin/postgres",
		dir + "/bin/initdb":   dir + "/bin/initdb",
		"/bin/sh":             "/bin/busybox",
	})
	folder(t, files, dir+"/lib", func(path string) bool {
		return strings.Contains(path, "llvmjit") || strings.Contains(path, "/bitcode/") || strings.Contains(path, "/pgxs/")
	})
	folder(t, files, "/usr/share/postgresql/"+version, func(path string) bool {
		return strings.Contains(path, "/man/") || strings.Contains(path, "/extension/") && !strings.Contains(path, "plpgsql")
	})
	folder(t, files, "/usr/share/zoneinfo/Etc", func(string) bool { return false })
	s.LoadImage(t, postgresImage, []string{"/bin/sh"}, files)
	start = strings.ReplaceAll(`set -e; PATH=DIR/bin
		initdb -D /data/db -U postgres -A trust -E UTF8 --locale=C --no-sync >/dev/null
		echo 'host all all all trust' >>/data/db/pg_hba.conf
		exec postgres -D /data/db -c listen_addresses=* -c unix_socket_directories= -c fsync=off`, "DIR", dir)
	return dir + "/bin/psql", start
}

// loadRedis makes an image of the Redis server: Debian's redis-tools has it, under the name of
// a tool that is the same program.
func (s *stage) loadRedis(t *testing.T) {
	t.Helper()
	files := map[string]string{}
	withLibraries(t, files, map[string]string{"/bin/redis-server": "/usr/bin/redis-check-rdb"})
	s.LoadImage(t, redisImage, []string{"/bin/redis-server", "--save", "", "--protected-mode", "no", "--dir", "/tmp"}, files)
}

// nodeLibraries returns the environment in which a Node program finds the library pg: Debian's package, or npm's.
func nodeLibraries(t *testing.T) []string {
	t.Helper()
	const debian = "/usr/share/nodejs"
	if _, err := os.Stat(debian + "/pg"); err == nil {
		return []string{"NODE_PATH=" + debian}
	}
	dir := t.TempDir()
	for _, file := range []string{"package.json", "package-lock.json"} {
		b, err := os.ReadFile(filepath.Join("../protocols/clients", file))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, file), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("npm ci: %v\n%s", err, out)
	}
	return []string{"NODE_PATH=" + filepath.Join(dir, "node_modules")}
}

// server is a pod, with its service, that others talk to.
func server(name, image string, ports string, args ...string) string {
	list, _ := json.Marshal(args) // strings only
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %[1]s, labels: {app: %[1]s}}
spec:
  terminationGracePeriodSeconds: 1
  volumes: [{name: data, emptyDir: {}}]
  securityContext: {runAsUser: 70, runAsGroup: 70}
  containers:
  - name: %[1]s
    image: %[2]s
    imagePullPolicy: Never
    args: %[4]s
    env: [{name: TZ, value: Etc/UTC}]
    volumeMounts: [{name: data, mountPath: /data}]
---
apiVersion: v1
kind: Service
metadata: {name: %[1]s}
spec:
  selector: {app: %[1]s}
  ports: [%[3]s]
---`, name, image, ports, list)
}

// TestProtocolsOutgoing talks to real servers in the cluster through a session, with the
// libraries that applications use, and from several languages. Each server says that it sees
// the pod.
func TestProtocolsOutgoing(t *testing.T) {
	s := newStage(t)
	program := s.protocols(t)
	psql, startPostgres := s.loadPostgres(t)
	s.loadRedis(t)
	s.deploy(t, web([]uint16{8080})+"---"+
		server("broker", protocolsImage, "{name: grpc, port: 7001}, {name: websocket, port: 7002}, {name: http3, port: 7003, protocol: UDP}, {name: nats, port: 4222}",
			"serve", "-name", "broker", "-grpc", ":7001", "-websocket", ":7002", "-http3", ":7003", "-nats", ":4222")+
		server("postgres", postgresImage, "{port: 5432}", "-c", startPostgres)+
		server("redis", redisImage, "{port: 6379}"),
		"pod/web", "pod/broker", "pod/postgres", "pod/redis")
	pod4, pod6 := s.ips(t, "web")
	node := nodeLibraries(t)
	home := "HOME=" + t.TempDir() // the scripts are outside of it, wherever this is checked out
	client := func(name string) string { return filepath.Join("../protocols/clients", name) }
	all := func(words string) []string { return strings.Split(words, ", ") }
	t.Run("http3 among processes of the session", func(t *testing.T) {
		t.Parallel()
		s.ownHTTP3(t, program)
	})
	for _, test := range []struct {
		name    string
		command []string
		env     []string
		server  string
		did     []string
	}{
		{
			"grpc",
			[]string{program, "grpc", "broker:7001"},
			nil, "broker",
			all("unary, client streaming, server streaming, both ways, metadata and trailers, status, timeout, cancel"),
		},
		{"websocket", []string{program, "websocket", "broker:7002"}, nil, "broker", all("messages, ping, close")},
		{"http3", []string{program, "http3", "broker:7003"}, nil, "broker", all("request, streams side by side, large body")},
		{"nats", []string{program, "nats", "broker:4222"}, nil, "broker", all("publish and subscribe, request and reply")},
		{"redis/go", []string{program, "redis", "redis:6379"}, nil, "", all("set and get, pipeline, publish and subscribe")},
		{"redis/python", []string{"/usr/bin/python3", client("pubsub.py"), "redis:6379"}, nil, "", all("set and get, publish and subscribe")},
		{"postgres/go", []string{program, "postgres", "postgres:5432"}, nil, "", all("copy, query, listen and notify")},
		{"postgres/python", []string{"/usr/bin/python3", client("postgres.py"), "postgres:5432"}, nil, "", all("query, listen and notify")},
		{"postgres/node", []string{"node", client("postgres.js"), "postgres:5432"}, node, "", all("query, listen and notify")},
		{
			"postgres/psql",
			[]string{
				psql, "-XAtq", "-h", "postgres", "-U", "postgres", "-c",
				`select json_build_object('peer', host(inet_client_addr()), 'did', json_build_array('sum of ' || count(*))) from generate_series(1, 100000)`,
			},
			nil, "", all("sum of 100000"),
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			retried := &dialogue{}
			// A server that was just started may not be ready: its pod is as soon as it runs.
			eventually(t, func() error {
				se := s.start(t, run{
					config:  object{"target": s.webTarget(), "feature": object{"network": object{"outgoing": true, "dns": true}}},
					env:     append(slices.Clone(test.env), home),
					command: test.command,
				})
				if code := se.wait(); code != 0 {
					return fmt.Errorf("exit code %d\n%s%s", code, se.out.String(), se.stderr())
				}
				return json.Unmarshal([]byte(se.out.String()), retried)
			})
			if !sameHost(retried.Peer, pod4, pod6) {
				t.Errorf("the server saw %s, want the pod, %s or %s", retried.Peer, pod4, pod6)
			}
			if retried.Server != test.server || !slices.Equal(retried.Did, test.did) {
				t.Errorf("%+v, want %q of %q", *retried, test.did, test.server)
			}
		})
	}
}

// ownHTTP3 has a process of the session serve HTTP/3 for another one: datagrams of the session's own stay with it.
func (s *stage) ownHTTP3(t *testing.T, program string) {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	must(t, err)
	addr := c.LocalAddr().String()
	must(t, c.Close())
	const script = `"$0" serve -name own -http3 "$1" >/dev/null & server=$!
until "$0" http3 "$1"; do kill -0 $server || exit 1; sleep 0.2; done
kill $server`
	se := s.start(t, run{
		config:  object{"target": s.webTarget(), "feature": object{"network": object{"outgoing": true, "incoming": "steal"}}},
		command: []string{"sh", "-c", script, program, addr},
	})
	if code := se.wait(); code != 0 {
		t.Fatalf("exit code %d\n%s", code, se.stderr())
	}
	var d dialogue
	if err := json.Unmarshal([]byte(se.out.String()), &d); err != nil {
		t.Fatal(err)
	}
	if d.Server != "own" || !sameHost(d.Peer, "127.0.0.1") || len(d.Did) != 3 {
		t.Errorf("the session's own server was asked: %+v", d)
	}
}

// sameHost says whether an address, with a port or without, is one of the hosts.
func sameHost(addr string, hosts ...string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		host = addr
	}
	return slices.Contains(hosts, host)
}

// TestProtocolsStolen has clients in the cluster talk to a local server in place of the pod's,
// and to the pod's again afterwards.
func TestProtocolsStolen(t *testing.T) {
	s := newStage(t)
	program := s.protocols(t)
	ports := map[string]uint16{"grpc": freePort(t), "websocket": freePort(t), "nats": freePort(t)}
	serve := func(name string) []string {
		args := []string{"serve", "-name", name}
		for protocol, port := range ports {
			args = append(args, "-"+protocol, fmt.Sprintf(":%d", port))
		}
		return args
	}
	var list []string
	for protocol, port := range ports {
		list = append(list, fmt.Sprintf("{name: %s, port: %d}", protocol, port))
	}
	s.deploy(t, server("app", protocolsImage, strings.Join(list, ", "), serve("pod")...), "pod/app")
	ask := func(t *testing.T, protocol, want string) {
		t.Helper()
		deadline := time.Now().Add(patience)
		for {
			res := s.Run(t, s.ns, protocolsImage, protocol, fmt.Sprintf("app:%d", ports[protocol]))
			var d dialogue
			err := json.Unmarshal([]byte(res.Stdout), &d)
			switch {
			case err == nil && d.Server == want && len(d.Did) > 1:
				return
			case time.Now().After(deadline):
				t.Fatalf("exit code %d, answered by %q, want %q\n%s%s", res.Code, d.Server, want, res.Stdout, res.Stderr)
			}
		}
	}
	for protocol := range ports {
		ask(t, protocol, "pod")
	}
	se := s.start(t, run{
		config:  object{"target": object{"path": "pod/app", "namespace": s.ns}, "feature": object{"network": object{"incoming": "steal"}}},
		command: append([]string{program}, serve("laptop")...),
	})
	for _, port := range ports {
		se.subscribed(port)
	}
	for protocol := range ports {
		t.Run(protocol, func(t *testing.T) { ask(t, protocol, "laptop") })
	}
	se.stop()
	for protocol := range ports {
		ask(t, protocol, "pod")
	}
}
