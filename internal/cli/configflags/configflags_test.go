package configflags

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/config/origin"
)

func parse(t *testing.T, args ...string) *Flags {
	t.Helper()
	set := pflag.NewFlagSet("test", pflag.ContinueOnError)
	flags := Register(set)
	if err := set.Parse(args); err != nil {
		t.Fatal(err)
	}
	return flags
}

func TestOverrides(t *testing.T) {
	tests := []struct {
		args []string
		want []config.Override
	}{
		{nil, nil},
		{[]string{"-t", "pod/a", "-n", "ns"}, []config.Override{
			{Field: "target.path", Value: "pod/a", Flag: "--target"}, {Field: "target.namespace", Value: "ns", Flag: "--target-namespace"},
		}},
		{[]string{"--steal"}, []config.Override{{Field: "feature.network.incoming.mode", Value: "steal", Flag: "--steal"}}},
		{[]string{"--steal=false"}, nil},
		{[]string{"--no-outgoing"}, []config.Override{
			{Field: "feature.network.outgoing.tcp", Value: "false", Flag: "--no-outgoing"}, {Field: "feature.network.outgoing.udp", Value: "false", Flag: "--no-outgoing"},
		}},
		{[]string{"-c"}, []config.Override{{Field: "accept_invalid_certificates", Value: "true", Flag: "--accept-invalid-certificates"}}},
		{[]string{"-c=false"}, []config.Override{{Field: "accept_invalid_certificates", Value: "false", Flag: "--accept-invalid-certificates"}}},
		{[]string{"--no-telemetry", "-e"}, []config.Override{
			{Field: "agent.ephemeral", Value: "true", Flag: "--ephemeral-container"}, {Field: "telemetry", Value: "false", Flag: "--no-telemetry"},
		}},
	}
	for _, test := range tests {
		if diff := cmp.Diff(test.want, parse(t, test.args...).Overrides()); diff != "" {
			t.Errorf("%v: %s", test.args, diff)
		}
	}
}

func TestFile(t *testing.T) {
	variable := func(name string) (string, bool) { return "env.yaml", name == FileVariable }
	tests := []struct {
		args   []string
		lookup func(string) (string, bool)
		want   string
	}{
		{nil, nil, ""},
		{nil, variable, "env.yaml"},
		{[]string{"-f", "b.json"}, variable, "b.json"},
		{[]string{"-f=a.json"}, variable, "a.json"},
		{[]string{"-fa.json"}, variable, "a.json"},
		{[]string{"--config-file=-"}, nil, "-"},
	}
	for _, test := range tests {
		if got := parse(t, test.args...).File(test.lookup); got != test.want {
			t.Errorf("%v: %q, want %q", test.args, got, test.want)
		}
	}
}

func TestArguments(t *testing.T) {
	for _, test := range []struct{ args, want string }{
		{"exec -f -- ./server", "exec --config-file=./.mirrord/mirrord.json -- ./server"},
		{"exec -f", "exec --config-file=./.mirrord/mirrord.json"},
		{"exec -f a.json -- ./server", "exec -f a.json -- ./server"},
		{"exec -f a.json ./server -f -x", "exec -f a.json ./server -f -x"},
		{"exec ./server -f --y", "exec ./server -f --y"},
		{"exec -f - ./server", "exec -f - ./server"},
		{"exec --config-file --steal ./server", "exec --config-file=./.mirrord/mirrord.json --steal ./server"},
		{"exec -t -f -f --steal", "exec -t -f --config-file=./.mirrord/mirrord.json --steal"},
		{"exec -cet -f -f -c", "exec -cet -f --config-file=./.mirrord/mirrord.json -c"},
		{"exec -tpod/a -f -c x", "exec -tpod/a --config-file=./.mirrord/mirrord.json -c x"},
		{"exec --steal -v -f -- x", "exec --steal -v --config-file=./.mirrord/mirrord.json -- x"},
		{"other -f -x", "other -f -x"},
		{"nonsense -f -x", "nonsense -f -x"},
		{"", ""},
	} {
		root := &cobra.Command{Use: "mirrord"}
		root.PersistentFlags().BoolP("verbose", "v", false, "")
		exec := &cobra.Command{Use: "exec", RunE: func(*cobra.Command, []string) error { return nil }}
		exec.Flags().SetInterspersed(false)
		Register(exec.Flags())
		root.AddCommand(exec, &cobra.Command{Use: "other", Run: func(*cobra.Command, []string) {}})
		if got := strings.Join(Arguments(root, strings.Fields(test.args)), " "); got != test.want {
			t.Errorf("%q gives %q, want %q", test.args, got, test.want)
		}
	}
}

// Every flag sets what it says, with itself as the origin, and wins over the environment.
func TestFlagsReachTheConfiguration(t *testing.T) {
	flags := parse(t, "--profile", "ns/base", "-t", "deploy/shop/container/web", "-n", "shop", "--context", "c1", "-k", "k9", "-c",
		"--steal", "--no-tcp-outgoing", "--no-udp-outgoing", "--no-remote-dns", "--fs-mode", "local", "-x", "A;B*", "--env-file", "e.env",
		"-a", "agents", "-i", "img:1", "-l", "debug", "--agent-ttl", "7", "--agent-startup-timeout", "90", "-e", "--no-telemetry")
	opts := flags.LoadOptions(func(name string) (string, bool) { return "from-variable", strings.HasSuffix(name, "_NAMESPACE") })
	c, _, err := config.Load(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	yes := true
	want := config.Config{
		AcceptInvalidCertificates: &yes, SkipBuildTools: true, Profile: "ns/base", KubeContext: "c1", Key: "k9",
		Target: config.Target{Path: config.TargetPath{Kind: config.Deployment, Name: "shop", Container: "web"}, Namespace: "shop"},
		Feature: config.Feature{
			Network: config.Network{Incoming: config.Incoming{Mode: config.IncomingSteal, OnConcurrentSteal: "abort", Probes: "target"}, IPv6: true},
			Env:     config.Env{Enabled: true, Include: []string{"A", "B*"}, EnvFile: "e.env"},
			FS:      config.FS{Mode: config.FSLocal}, Hostname: true, Magic: config.Magic{AWS: true},
		},
		Agent: config.Agent{
			Namespace: "agents", Image: "img:1", ImagePullPolicy: "IfNotPresent", TTL: 7, Ephemeral: true,
			CommunicationTimeout: 300, StartupTimeout: 90, FlushConnections: true, LogLevel: "debug",
			MaxBodyBufferSize: 65535, MaxBodyBufferTimeout: 1000, HTTPDetectionTimeout: 2, JQTimeLimit: 50,
		},
	}
	ignore := cmp.FilterPath(func(p cmp.Path) bool { return slices.Contains([]string{"origins", "extra"}, p.Last().String()[1:]) }, cmp.Ignore())
	if diff := cmp.Diff(want, *c, ignore); diff != "" {
		t.Error(diff)
	}
	for path, flag := range map[string]string{
		"profile": "--profile", "target.path": "--target", "target.namespace": "--target-namespace", "feature.network.outgoing.udp": "--no-udp-outgoing",
		"agent.ttl": "--agent-ttl", "agent.namespace": "--agent-namespace", "key": "--key",
	} {
		if got := c.Origin(path); got != (origin.Origin{Kind: origin.Flag, Name: flag}) {
			t.Errorf("%s comes from %s, want %s", path, got, flag)
		}
	}
}

func TestMistakesNameTheFlag(t *testing.T) {
	_, _, err := config.Load(t.Context(), parse(t, "-t", "shop", "--agent-ttl", "soon", "--fs-mode", "raed").LoadOptions(nil))
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"--target: target.path: ", "--agent-ttl: agent.ttl: ", "--fs-mode: feature.fs.mode: "} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in\n%v", want, err)
		}
	}
}

// The documentation of a field names its flag, and every flag that a field names is there.
func TestFlagsAndFieldsAgree(t *testing.T) {
	flags := parse(t)
	registered := map[string]bool{}
	for _, fl := range flags.flags {
		for _, field := range fl.fields {
			registered[fl.shown+" "+field] = true
		}
	}
	for _, field := range config.Fields() {
		for name := range strings.SplitSeq(field.Flag, ", ") {
			if !strings.HasPrefix(name, "--") {
				continue
			}
			if !registered[name+" "+field.Path] {
				t.Errorf("%s: no flag %s sets it", field.Path, name)
			}
			delete(registered, name+" "+field.Path)
		}
	}
	for left := range registered {
		t.Errorf("the field of this flag does not name it: %s", left)
	}
}

func TestNoFlagNeedsASpace(t *testing.T) {
	parse(t).set.VisitAll(func(f *pflag.Flag) {
		if f.Usage == "" || strings.HasSuffix(f.Usage, ".") {
			t.Errorf("--%s: usage %q", f.Name, f.Usage)
		}
	})
}
