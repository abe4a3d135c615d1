package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mirrord-go/mirrord/internal/cli/progress"
	"github.com/mirrord-go/mirrord/internal/config/origin"
)

// effect is what a session does, as seen from outside: who answers the target's port, and
// from where the process's connections come.
type effect struct {
	incoming string // "steal", "mirror" or "off"
	outgoing bool   // remote
	dns      bool   // remote
}

// serveAndConnect is a process that has the three effects: it listens, then connects by
// address and by name, and then waits.
func serveAndConnect(t *testing.T, port uint16, db4 string) []string {
	t.Helper()
	p := programs(t)[0]
	p.need(t)
	return []string{"sh", "-c", quote(p.command(fmt.Sprintf("listen %d laptop", port))) + " & " +
		quote(p.command("tcp "+db4+" 8080", "resolve db")) + "; echo done; wait"}
}

// observe finds out what the session of serveAndConnect does.
func (s *stage) observe(t *testing.T, se *session, port uint16) (e effect) {
	t.Helper()
	web4, _ := s.ips(t, "web")
	db4, _ := s.ips(t, "db")
	se.printed(fmt.Sprintf("listening laptop %d\n", port))
	se.printed("done\n")
	out := readResults(se.out.String())
	e.outgoing = out.peer(t, "tcp "+db4+" 8080").String() == web4
	e.dns = out["resolve db"] != "nxdomain" && out["resolve db"] != ""
	a := s.ask(t, url(web4, port))
	switch {
	case a.Echo == nil:
		t.Errorf("no answer: %+v", a)
	case a.Echo.Name == "laptop":
		e.incoming = "steal"
	case a.Echo.Name == "web":
		e.incoming = "off"
		// A copy arrives a moment later than the answer. A session that mirrors has said so.
		if se.seen(mirrors) {
			eventually(t, func() error {
				if len(se.requests()) == 0 {
					return fmt.Errorf("the local process has not received a copy")
				}
				return nil
			})
			e.incoming = "mirror"
		}
	}
	return e
}

func mirrors(l progress.Line) bool {
	return l.Event == "port-subscribed" && strings.HasPrefix(l.Text, "mirroring")
}

// origins are where a session's values for incoming, outgoing and dns come from, by the word
// of its summary.
func origins(se *session) map[string]origin.Origin {
	by := map[string]origin.Origin{}
	for _, set := range se.summary().Settings {
		if set.Name == "incoming" || set.Name == "outgoing" || set.Name == "dns" {
			o := set.Origin
			o.Line, o.Column = 0, 0
			if o.Kind == origin.File {
				o.Name = "" // a temporary file
			}
			by[set.Name] = o
		}
	}
	return by
}

// TestConflicts: of several adjustments the last one wins, and a profile wins over flags,
// environment and file, in what it does and in what the session says.
func TestConflicts(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	port := freePort(t)
	s.deploy(t, web([]uint16{port})+"---"+client+"---"+db, "pod/web", "pod/client", "pod/db")
	db4, _ := s.ips(t, "db")
	wide := s.ns + "-wide"
	s.Apply(t, "", profileManifest("MirrordClusterProfile", wide,
		"incoming-mirror", "outgoing-off", "dns-off", "incoming-off", "incoming-steal", "outgoing-remote", "dns-remote"))
	other := s.profile(t, "other", "incoming-steal", "outgoing-remote", "dns-remote", "dns-off", "incoming-off", "outgoing-off")
	third := s.profile(t, "third", "incoming-steal", "incoming-mirror", "outgoing-off", "outgoing-remote", "outgoing-off", "dns-remote")
	plain := s.profile(t, "plain", "incoming-off", "outgoing-remote", "dns-remote")

	network := func(incoming string, outgoing, dns bool) object {
		return object{"network": object{"incoming": incoming, "outgoing": outgoing, "dns": dns}}
	}
	from := func(profile string, incoming, outgoing, dns int) map[string]origin.Origin {
		o := origin.Origin{Kind: origin.Profile, Name: profile}
		by := map[string]origin.Origin{}
		for name, n := range map[string]int{"incoming": incoming, "outgoing": outgoing, "dns": dns} {
			o.Adjustment = n
			by[name] = o
		}
		return by
	}
	for _, tt := range []struct {
		name    string
		run     run
		want    effect
		origins map[string]origin.Origin
	}{
		{
			"cluster-wide profile",
			run{config: object{"profile": wide}},
			effect{"steal", true, true},
			from(wide, 5, 6, 7),
		},
		{
			"namespaced profile",
			run{config: object{"profile": other}},
			effect{"off", false, false},
			from(other, 5, 6, 4),
		},
		{
			"back and forth",
			run{config: object{"profile": third}},
			effect{"mirror", false, true},
			from(third, 2, 5, 6),
		},
		{
			"profile against file",
			run{config: object{"profile": plain, "feature": network("steal", false, false)}},
			effect{"off", true, true},
			from(plain, 1, 2, 3),
		},
		{
			"profile against environment",
			run{config: object{"profile": plain}, env: []string{
				"MIRRORD_AGENT_TCP_STEAL_TRAFFIC=true", "MIRRORD_TCP_OUTGOING=false", "MIRRORD_UDP_OUTGOING=false", "MIRRORD_REMOTE_DNS=false",
			}},
			effect{"off", true, true},
			from(plain, 1, 2, 3),
		},
		{
			"profile against flags",
			run{config: object{"profile": plain}, flags: []string{"--steal", "--no-outgoing", "--no-remote-dns"}},
			effect{"off", true, true},
			from(plain, 1, 2, 3),
		},
		{
			"profile of a flag against that of a file",
			run{config: object{"profile": plain}, flags: []string{"--profile", wide}},
			effect{"steal", true, true},
			from(wide, 5, 6, 7),
		},
		{
			"flag, environment and file without a profile",
			run{
				config: object{"feature": network("mirror", false, true)},
				env:    []string{"MIRRORD_REMOTE_DNS=false", "MIRRORD_AGENT_TCP_STEAL_TRAFFIC=false"},
				flags:  []string{"--steal"},
			},
			effect{"steal", false, false},
			map[string]origin.Origin{
				"incoming": {Kind: origin.Flag, Name: "--steal"},
				"outgoing": {Kind: origin.File},
				"dns":      {Kind: origin.Environment, Name: "MIRRORD_REMOTE_DNS"},
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.run.config["target"] = s.webTarget()
			tt.run.command = serveAndConnect(t, port, db4)
			se := s.start(t, tt.run)
			if diff := cmp.Diff(tt.origins, origins(se)); diff != "" {
				t.Errorf("origins in the summary (-want +got):\n%s", diff)
			}
			if got := s.observe(t, se, port); got != tt.want {
				t.Errorf("the session does %+v, want %+v", got, tt.want)
			}
			se.stop()
		})
	}
	t.Run("profile without adjustments", func(t *testing.T) { testEmptyProfile(t, s, port) })
}

// testEmptyProfile: a profile without adjustments is valid, says that it changes nothing, and
// leaves the configuration as it is.
func testEmptyProfile(t *testing.T, s *stage, port uint16) {
	db4, _ := s.ips(t, "db")
	ref := s.profile(t, "empty")
	se := s.start(t, run{
		config:  object{"profile": ref, "target": s.webTarget(), "feature": object{"network": object{"incoming": "steal", "dns": false}}},
		flags:   []string{"--progress", "plain"},
		command: serveAndConnect(t, port, db4),
	})
	if got, want := s.observe(t, se, port), (effect{incoming: "steal", outgoing: true}); got != want {
		t.Errorf("the session does %+v, want %+v", got, want)
	}
	se.stop()
	if text := se.stderr(); !strings.Contains(text, ref+": changes nothing") {
		t.Errorf("the session says:\n%s", text)
	}
}
