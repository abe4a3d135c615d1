package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
)

// TestIncomingPorts: the ports that a session takes are those that the process listens on, and
// that the configuration does not leave out.
func TestIncomingPorts(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	taken, ignored, loopback := freePort(t), freePort(t), freePort(t)
	s.deploy(t, web([]uint16{taken, ignored, loopback}), "pod/web")
	ip4, _ := s.ips(t, "web")
	check := func(port uint16, want string) {
		t.Helper()
		if a, err := (asked{path: "/"}).do(one(t, false), url(ip4, port)); err != nil || a.Name != want {
			t.Errorf("port %d: answered by %s, not by %s: %v", port, a.Name, want, err)
		}
	}
	command := []string{
		built.workload, "serve", "-name", "laptop", "-http", fmt.Sprintf("127.0.0.1:%d,:%d,:%d", loopback, ignored, taken),
	}
	for _, tt := range []struct {
		name                     string
		settings                 object
		ignoredIs, loopbackIs    string
		subscribed, unsubscribed uint16
	}{
		{"ignored", object{"mode": "steal", "ignore_ports": []uint16{ignored}}, "web", "laptop", taken, ignored},
		{"allowed", object{"mode": "steal", "ports": []uint16{taken, ignored}}, "laptop", "web", taken, loopback},
		{"localhost", object{"mode": "steal", "ignore_localhost": true}, "laptop", "web", taken, loopback},
	} {
		t.Run(tt.name, func(t *testing.T) {
			se := s.start(t, run{config: s.incoming(tt.settings), command: command})
			se.subscribed(tt.subscribed) // the last that the process listens on
			check(taken, "laptop")
			check(ignored, tt.ignoredIs)
			check(loopback, tt.loopbackIs)
			if strings.Contains(se.stderr(), fmt.Sprintf(`"port":%d`, tt.unsubscribed)) {
				t.Errorf("the user was told of port %d", tt.unsubscribed)
			}
			se.stop()
			check(taken, "web")
		})
	}
}

// TestOutgoingSettings: connections to loopback and over IPv6, and the host name, as the
// configuration says.
func TestOutgoingSettings(t *testing.T) {
	s := newStage(t)
	s.deploy(t, web([]uint16{8080})+"---"+db, "pod/web", "pod/db")
	_, db6 := s.ips(t, "db")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, `{"name":"laptop"}`) })}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close(); <-done })
	here, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name                  string
		feature               object
		loopback, six, called string
	}{
		{"default", object{}, "ECONNREFUSED", "", "web"},
		{
			"everything else",
			object{"hostname": false, "network": object{"ipv6": false, "outgoing": object{"ignore_localhost": true}}},
			"", "ENETUNREACH", here,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			script := fmt.Sprintf("%[1]s tcp %[2]s; %[1]s tcp [%[3]s]:8080; uname -n", built.workload, l.Addr(), db6)
			se := s.start(t, run{config: object{"target": s.webTarget(), "feature": tt.feature}, command: []string{"sh", "-c", script}})
			if code := se.wait(); code != 0 {
				t.Fatalf("exit code %d", code)
			}
			lines := strings.Split(strings.TrimSpace(se.out.String()), "\n")
			if len(lines) != 3 {
				t.Fatalf("the process wrote %q", lines)
			}
			for i, want := range []string{tt.loopback, tt.six} {
				var p struct{ Error, Errno string }
				if err := json.Unmarshal([]byte(lines[i]), &p); err != nil || p.Errno != want || (p.Error == "") != (want == "") {
					t.Errorf("%s, want %q: %v", lines[i], want, err)
				}
			}
			if lines[2] != tt.called {
				t.Errorf("the host name is %q, want %q", lines[2], tt.called)
			}
		})
	}
}
