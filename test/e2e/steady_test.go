package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"
)

// steady is what "workload load" says.
type steady struct {
	Unmarked, Marked struct {
		Requests, Failed int
		By               map[string]int
		P50, P99         float64
	}
	Failures []string
}

// stream sends a steady rate of requests to the target, one of ten marked, and returns who answered how many.
func stream(t *testing.T, url, rate, duration string) steady {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), built.workload, "load", "-rate", rate, "-for", duration, "-header", "X-Marked: yes", url).Output()
	var s steady
	if e := json.Unmarshal(out, &s); e != nil {
		t.Fatalf("%v: %v\n%s", e, err, out)
	}
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return s
}

// TestFilteredStealUnderLoad: of a thousand requests a second, those that the filter chooses go to the laptop, all others
// to the pod, and none fails while the session runs. None of the others does when it starts and when it ends either. When it ends,
// a chosen one that the laptop has not begun to answer is the pod's too, if the end of the session follows that of the process
// within a second: a busy machine may be slower, so what became of those is only told.
func TestFilteredStealUnderLoad(t *testing.T) {
	s := newStage(t)
	port := freePort(t)
	s.deploy(t, web([]uint16{port}), "pod/web")
	ip4, _ := s.ips(t, "web")
	through := make(chan steady)
	start := func() {
		go func() { through <- stream(t, url(ip4, port), "500", "8s") }()
	}
	start() // runs on while the session comes
	se := s.start(t, run{
		config:  s.incoming(object{"mode": "steal", "http_filter": object{"header_filter": "^x-marked: yes$"}}),
		command: laptop("laptop", port),
	})
	se.subscribed(port)
	coming := <-through

	within := stream(t, url(ip4, port), "1000", "5s")
	t.Logf("in the session: %+v", within)
	for kind, by := range map[string]string{"unmarked": "web", "marked": "laptop"} {
		seen := within.Unmarked
		if kind == "marked" {
			seen = within.Marked
		}
		if seen.Failed != 0 || seen.Requests == 0 || seen.By[by] != seen.Requests {
			t.Errorf("%s requests: %+v, want all answered by %s\n%s", kind, seen, by, strings.Join(within.Failures, "\n"))
		}
	}

	before := counts(t, ip4, 8090).Requests
	start()
	eventually(t, func() error {
		if n := counts(t, ip4, 8090).Requests - before; n < 100 {
			return fmt.Errorf("the pod got %d requests", n)
		}
		return nil
	})
	se.stop()
	going := <-through
	for when, seen := range map[string]steady{"while the session came": coming, "while it went": going} {
		t.Logf("%s: %+v", when, seen)
		if n := seen.Unmarked.Failed; n != 0 || seen.Unmarked.By["laptop"] != 0 {
			t.Errorf("%s %d unmarked requests failed, and the laptop answered %d\n%s", when, n, seen.Unmarked.By["laptop"], strings.Join(seen.Failures, "\n"))
		}
	}
	if after := stream(t, url(ip4, port), "200", "1s"); after.Marked.By["web"] != after.Marked.Requests || after.Unmarked.By["web"] != after.Unmarked.Requests {
		t.Errorf("afterwards: %+v", after)
	}
}

// TestMirrorUnderLoad: the pod answers every request, and the laptop gets a copy of each, or the user reads how many
// connections were left out.
func TestMirrorUnderLoad(t *testing.T) {
	s := newStage(t)
	port, admin := freePort(t), freePort(t)
	s.deploy(t, web([]uint16{port}), "pod/web")
	ip4, _ := s.ips(t, "web")
	se := s.start(t, run{
		config:  s.incoming(object{"mode": "mirror"}),
		command: laptop("laptop", port, "-admin", fmt.Sprintf("127.0.0.1:%d", admin)),
	})
	se.subscribed(port)
	seen := stream(t, url(ip4, port), "1000", "5s")
	t.Logf("%+v", seen)
	all := seen.Marked.Requests + seen.Unmarked.Requests
	if seen.Marked.By["web"]+seen.Unmarked.By["web"] != all {
		t.Errorf("the pod answered %d and %d of %d\n%s", seen.Marked.By["web"], seen.Unmarked.By["web"], all, strings.Join(seen.Failures, "\n"))
	}
	left := func() bool {
		se.mu.Lock()
		defer se.mu.Unlock()
		for _, e := range se.events {
			if e.Event == "notice" && e.Level == "warning" && e.Port == port {
				return true
			}
		}
		return false
	}
	eventually(t, func() error {
		if n := counts(t, "127.0.0.1", int(admin)).Requests; n != int64(all) && !left() {
			return fmt.Errorf("%d of %d requests were mirrored, and no warning says so", n, all)
		}
		return nil
	})
	se.stop()
}
