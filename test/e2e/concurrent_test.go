package e2e

import (
	"strings"
	"testing"

	"github.com/mirrord-go/mirrord/internal/cli/progress"
)

// TestTwoSessionsStealOnePort: the second is told so and changes nothing, whichever way its
// agent came; once the first has ended, the port is the next one's that waits for it.
func TestTwoSessionsStealOnePort(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.deploy(t, shop+"---"+client, "deployment/shop", "pod/client")
	pod, _ := s.shopPod(t)
	steal := func(name, local string, mapping [][2]int, ephemeral bool) *session {
		return s.start(t, run{
			config: object{
				"agent":   object{"ephemeral": ephemeral},
				"feature": object{"network": object{"incoming": object{"mode": "steal", "port_mapping": mapping}}},
			},
			command: []string{built.workload, "serve", "-http", ":" + local, "-name", name},
		})
	}
	answers := func(want string) {
		t.Helper()
		if a := s.ask(t, "http://shop/"); a.Echo == nil || a.Echo.Name != want {
			t.Errorf("want %s: %+v", want, a)
		}
	}
	second := [][2]int{{18080, 8080}}
	first := steal("first", "8080", nil, false)
	first.subscribed(8080)
	answers("first")
	for _, ephemeral := range []bool{false, true} {
		late := steal("second", "18080", second, ephemeral)
		e := late.event("it was told", func(l progress.Line) bool { return l.Event == "port-failed" && l.Port == 8080 })
		if e.Level != "warning" || !strings.Contains(e.Text, "another session takes the connections of port 8080 already") {
			t.Errorf("it was told %+v", e)
		}
		answers("first")
		late.stop()
		answers("first")
	}
	waiting := steal("second", "18080", second, false)
	waiting.event("it waits", func(l progress.Line) bool {
		return l.Event == "port-failed" && strings.Contains(l.Text, "it will be when")
	})
	answers("first")
	first.stop()
	waiting.subscribed(8080)
	answers("second")
	waiting.stop()
	answers(pod)
}
