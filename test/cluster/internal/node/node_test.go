package node

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mirrord-go/mirrord/test/cluster/internal/build"
	"github.com/mirrord-go/mirrord/test/cluster/internal/layout"
)

func TestWrite(t *testing.T) {
	for _, ipv6 := range []bool{true, false} {
		s := Spec{
			Layout:   layout.Layout{Source: "/src", Cache: t.TempDir(), Name: "c"},
			Ranges:   layout.Ranges{Slot: 2, IPv6: ipv6},
			Programs: build.Programs{Kubernetes: "/bin/k8s", CoreDNS: "/bin/dns", Pause: "/bin/pause"},
		}
		if err := s.Write(); err != nil {
			t.Fatal(err)
		}
		back, err := ReadSpec(SpecPath(s.Layout))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(s, back); diff != "" {
			t.Error(diff)
		}
		read := func(name string) string {
			t.Helper()
			b, err := os.ReadFile(filepath.Join(s.Layout.Config(), name))
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(b), "{{") || strings.Contains(string(b), "<no value>") {
				t.Errorf("%s is not filled in:\n%s", name, b)
			}
			return string(b)
		}
		for _, name := range []string{"containerd.toml", "kubelet.yaml", "kube-proxy.yaml", "system.yaml"} {
			read(name)
		}
		var cni struct {
			Plugins []struct {
				IPAM struct{ Ranges [][]struct{ Subnet string } }
			}
		}
		if err := json.Unmarshal([]byte(read("cni/10-pods.conflist")), &cni); err != nil {
			t.Fatal(err)
		}
		want := 1
		if ipv6 {
			want = 2
		}
		if got := cni.Plugins[0].IPAM.Ranges; len(got) != want || got[0][0].Subnet != "10.202.128.0/20" {
			t.Errorf("IPv6 %v: pod ranges %v", ipv6, got)
		}
		if has := strings.Contains(read("system.yaml"), "AAAA  fd6d"); has != ipv6 {
			t.Errorf("IPv6 %v: AAAA records %v", ipv6, has)
		}
		for _, d := range []daemon{s.containerd(), s.etcd(), s.apiserver(), s.controllerManager(), s.scheduler(), s.kubelet(), s.kubeProxy()} {
			if args := strings.Join(d.args, " "); !ipv6 && strings.Contains(args, "fd6d:") {
				t.Errorf("%s of an IPv4 cluster: %s", d.name, args)
			}
		}
	}
}
