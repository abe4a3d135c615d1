package e2e

import (
	"slices"
	"testing"
)

// TestFilters shows outgoing.filter and dns.filter with every program: by name through what the
// program has looked up, by address and port, and both sides.
func TestFilters(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.deploy(t, insider()+"---"+db, "pod/web", "pod/db")
	db4, db6 := s.ips(t, "db")
	full := "db." + s.ns + ".svc.cluster.local"
	for _, tt := range []struct {
		name          string
		outgoing, dns any
		// fromPod and fromHere are where the server sees the connections come from.
		fromPod, fromHere []string
		resolved, absent  []string
	}{
		{
			name:     "addresses stay local",
			outgoing: object{"filter": object{"local": []string{db4, "udp://[" + db6 + "]"}}},
			dns:      true,
			fromPod:  []string{"tcp " + db6 + " 8080", "tcp db 8080"},
			fromHere: []string{"tcp " + db4 + " 8080", "udp " + db4 + " 9001", "udp " + db6 + " 9001"},
		},
		{
			name:     "names go to the target",
			outgoing: object{"filter": object{"remote": []string{"db"}}},
			dns:      true,
			// The other name has the same address: what was looked up last does not count.
			fromPod:  []string{"tcp db 8080", "tcp " + full + " 8080"},
			fromHere: []string{"tcp " + db4 + " 8080", "tcp " + db6 + " 8080"},
		},
		{
			name:     "wildcards and ports",
			outgoing: object{"filter": object{"remote": []string{"*.svc.cluster.local:8080"}}},
			dns:      true,
			fromPod:  []string{"tcp " + full + " 8080"},
			fromHere: []string{"tcp " + db4 + " 8080", "udp " + full + " 9001"},
		},
		{
			name:     "names resolved in the target",
			outgoing: true,
			dns:      object{"filter": object{"remote": []string{"db", "many.mirrord.test"}}},
			resolved: []string{"resolve db", "resolve many.mirrord.test"}, // the second over TCP: it is too long for a datagram
			absent:   []string{"resolve " + full, "resolve machine.mirrord.test"},
		},
		{
			name:     "names resolved here",
			outgoing: true,
			dns:      object{"filter": object{"local": []string{"*.cluster.local", "machine.mirrord.test"}}},
			resolved: []string{"resolve db", "resolve alias2.mirrord.test", "resolve many.mirrord.test"},
			absent:   []string{"resolve " + full, "resolve machine.mirrord.test"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			se := s.start(t, run{
				config: object{
					"target":  s.webTarget(),
					"feature": object{"network": object{"outgoing": tt.outgoing, "dns": tt.dns, "incoming": "off"}},
				},
				command: inTurn(programs(t), slices.Concat(tt.fromPod, tt.fromHere, tt.resolved, tt.absent)...),
			})
			if code := se.wait(); code != 0 {
				t.Errorf("exit code %d", code)
			}
			web4, web6 := s.ips(t, "web")
			results := eachResult(se.out.String())
			for _, p := range programs(t) {
				t.Run(p.name, func(t *testing.T) {
					p.need(t)
					got := results[p.name]
					for _, step := range p.those(tt.fromPod) {
						if peer := got.peer(t, step); peer.String() != web4 && peer.String() != web6 {
							t.Errorf("%s: the server saw %s, the pod is %s and %s", step, peer, web4, web6)
						}
					}
					for _, step := range p.those(tt.fromHere) {
						if peer := got.peer(t, step); peer.String() == web4 || peer.String() == web6 {
							t.Errorf("%s: the server saw the pod, %s", step, peer)
						}
					}
					for _, step := range p.those(tt.resolved) {
						if got[step] == "" || got[step] == "nxdomain" {
							t.Errorf("%s: %q", step, got[step])
						}
					}
					for _, step := range p.those(tt.absent) {
						if got[step] != "nxdomain" {
							t.Errorf("%s: %q", step, got[step])
						}
					}
				})
			}
		})
	}
}
