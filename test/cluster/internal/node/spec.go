// Package node is the inside of the cluster: one node that is a container of its own.
//
// The command that starts the cluster runs a copy of itself as the first process of new mount, network, UTS, IPC and
// process namespaces (Init). That process lays state folders over the places where daemons store things, waits until it
// has a network, and starts a second copy (Supervise), which runs the daemons and starts those again that end. When the
// first process ends, the kernel ends everything else: daemons, containers, mounts, addresses, rules.
package node

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/mirrord-go/mirrord/test/cluster/internal/build"
	"github.com/mirrord-go/mirrord/test/cluster/internal/layout"
	"github.com/mirrord-go/mirrord/test/cluster/internal/machine"
)

// Images that every node has.
const (
	PauseImage   = "cluster.local/pause:1"
	CoreDNSImage = "cluster.local/coredns:1"
)

//go:embed files
var files embed.FS

// Spec is all that the node has to know. It passes from the starting command to Init and Supervise as a file.
type Spec struct {
	Layout   layout.Layout
	Ranges   layout.Ranges
	Programs build.Programs
}

// SpecPath is the file of the cluster's Spec.
func SpecPath(l layout.Layout) string { return filepath.Join(l.Config(), "node.json") }

// Write makes the configuration folder with the Spec and the configuration of every daemon.
func (s Spec) Write() error {
	if err := s.write(); err != nil {
		return fmt.Errorf("configuration of the node: %w", err)
	}
	return nil
}

func (s Spec) write() error {
	dir := s.Layout.Config()
	if err := os.MkdirAll(filepath.Join(dir, "cni"), 0o755); err != nil {
		return err
	}
	spec, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if err := os.WriteFile(SpecPath(s.Layout), spec, 0o644); err != nil {
		return err
	}
	// The node's own resolver is empty: a pod with dnsPolicy Default has no DNS server.
	if err := os.WriteFile(filepath.Join(dir, "resolv.conf"), nil, 0o644); err != nil {
		return err
	}
	for file, target := range map[string]string{
		"containerd.toml": "containerd.toml", "kubelet.yaml": "kubelet.yaml", "kube-proxy.yaml": "kube-proxy.yaml",
		"system.yaml": "system.yaml", "cni.conflist": "cni/10-pods.conflist",
	} {
		content, err := s.render(file)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, target), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// ReadSpec reads a Spec that Write wrote.
func ReadSpec(path string) (Spec, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return Spec{}, fmt.Errorf("configuration of the node: %w", err)
	}
	var s Spec
	if err := json.Unmarshal(b, &s); err != nil {
		return Spec{}, fmt.Errorf("configuration of the node: %s: %w", path, err)
	}
	return s, nil
}

// values is what the templates in files refer to.
type values struct {
	Config, PKI, PluginFolder, Cgroup, NodeName string
	PauseImage, CoreDNSImage                    string
	IPv6                                        bool
	Pods, Pods6, MachineIP, MachineIP6, DNS     string
	PodRanges                                   string
	ManyAddresses                               []netip.Addr
}

func (s Spec) render(file string) ([]byte, error) {
	t, err := template.ParseFS(files, "files/"+file)
	if err != nil {
		return nil, err
	}
	r := s.Ranges
	v := values{
		Config: s.Layout.Config(), PKI: s.Layout.PKI(), PluginFolder: machine.PluginFolder, Cgroup: r.Cgroup(), NodeName: layout.NodeName,
		PauseImage: PauseImage, CoreDNSImage: CoreDNSImage,
		IPv6: r.IPv6, Pods: r.Pods().String(), Pods6: r.Pods6().String(), DNS: r.DNS().String(),
		MachineIP: r.Machine().Addr().String(), MachineIP6: r.Machine6().Addr().String(),
		PodRanges: s.ranges(r.Pods(), r.Pods6()),
	}
	// More addresses than fit into a UDP answer of 512 bytes.
	for addr := netip.MustParseAddr("192.0.2.1"); len(v.ManyAddresses) < 40; addr = addr.Next() {
		v.ManyAddresses = append(v.ManyAddresses, addr)
	}
	var b bytes.Buffer
	if err := t.Option("missingkey=error").Execute(&b, v); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// ranges joins the ranges of the address families that the cluster has.
func (s Spec) ranges(four, six netip.Prefix) string {
	if !s.Ranges.IPv6 {
		return four.String()
	}
	return strings.Join([]string{four.String(), six.String()}, ",")
}

// Fingerprint covers the configuration of the daemons, apart from addresses and paths.
func Fingerprint() ([]byte, error) {
	entries, err := files.ReadDir("files")
	if err != nil {
		return nil, err
	}
	var all []byte
	for _, e := range entries {
		b, err := files.ReadFile("files/" + e.Name())
		if err != nil {
			return nil, err
		}
		all = append(all, b...)
	}
	return all, nil
}
