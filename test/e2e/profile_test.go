package e2e

import (
	"strings"
	"testing"
)

// TestFirstSession is the README's example: a profile, a target, a program.
func TestFirstSession(t *testing.T) {
	s := newStage(t)
	s.deploy(t, shop+"---"+client, "deployment/shop", "pod/client")
	s.Apply(t, s.ns, `
apiVersion: profiles.mirrord.metalbear.co/v1alpha
kind: MirrordProfile
metadata: {name: base}
spec:
  featureAdjustments: [{change: incoming-steal}, {change: outgoing-remote}, {change: dns-remote}]
`)
	pod, _ := s.shopPod(t)
	if a := s.ask(t, "http://shop/"); a.Echo == nil || a.Echo.Name != pod {
		t.Fatalf("before the session: %+v", a)
	}
	se := s.start(t, run{
		config:  object{"profile": s.ns + "/base"},
		command: []string{built.workload, "serve", "-http", ":8080", "-name", "laptop"},
	})
	se.subscribed(8080)
	a := s.ask(t, "http://shop/")
	if a.Echo == nil || a.Echo.Name != "laptop" {
		t.Fatalf("during the session: %+v", a)
	}
	clientIP := s.Pod(t, s.ns, "client").Status.PodIP
	if !strings.HasPrefix(a.Echo.Peer, clientIP+":") {
		t.Errorf("the laptop saw %s as its peer, not %s", a.Echo.Peer, clientIP)
	}
	se.stop()
	if a := s.ask(t, "http://shop/"); a.Echo == nil || a.Echo.Name != pod {
		t.Fatalf("after the session: %+v", a)
	}
}
