package config

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mirrord-go/mirrord/internal/config/origin"
	"github.com/mirrord-go/mirrord/internal/config/tree"
)

// load reads a configuration from text.
func load(t *testing.T, text string, opts LoadOptions) (*Config, Warnings, error) {
	t.Helper()
	if text != "" {
		opts.Path, opts.Stdin = "-", strings.NewReader(text)
	}
	return Load(t.Context(), opts)
}

func mustLoad(t *testing.T, text string, opts LoadOptions) *Config {
	t.Helper()
	c, _, err := load(t, text, opts)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestDefaults(t *testing.T) {
	got := mustLoad(t, "", LoadOptions{Version: "1.2.3", NewKey: func() string { return "k" }})
	want := &Config{
		Key: "k", SkipBuildTools: true,
		Feature: Feature{
			Network: Network{
				Incoming: Incoming{Mode: IncomingMirror, OnConcurrentSteal: ConcurrentStealAbort, Probes: ProbesToTarget},
				Outgoing: Outgoing{TCP: true, UDP: true},
				DNS:      DNS{Enabled: true},
				IPv6:     true,
			},
			Env: Env{Enabled: true}, FS: FS{Mode: FSRead}, Hostname: true, Magic: Magic{AWS: true},
		},
		Agent: Agent{
			Image: "ghcr.io/mirrord-go/mirrord-agent:1.2.3", ImagePullPolicy: "IfNotPresent", TTL: 1,
			CommunicationTimeout: 300, StartupTimeout: 60, FlushConnections: true, LogLevel: "info",
			MaxBodyBufferSize: 65535, MaxBodyBufferTimeout: 1000, HTTPDetectionTimeout: 2, JQTimeLimit: 50,
		},
		origins: origin.Map{}, extra: map[string]any{},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(Config{})); diff != "" {
		t.Error(diff)
	}
	if warnings, err := Finalize(got, FinalizeOptions{}); err != nil || len(warnings) > 0 {
		t.Errorf("the defaults are not without reproach: %v %v", warnings, err)
	}
	if got.HasTarget() {
		t.Error("nobody chose a target")
	}
}

// Every field with a variable: default, then file, then variable, then flag.
func TestPrecedence(t *testing.T) {
	const path = "feature.network.dns.enabled"
	get := func(c *Config) bool { return c.Feature.Network.DNS.Enabled }
	tests := []struct {
		name, file, variable, flag string
		want                       bool
		from                       origin.Origin
	}{
		{name: "default", want: true},
		{name: "file", file: `{"feature": {"network": {"dns": false}}}`, from: origin.Origin{Kind: origin.File, Name: "stdin", Line: 1, Column: 33}},
		{name: "file object", file: "{\"feature\": {\"network\": {\"dns\": {\n \"enabled\": false}}}}", from: origin.Origin{Kind: origin.File, Name: "stdin", Line: 2, Column: 13}},
		{
			name: "variable under a disabled section", file: `{"feature": {"network": {"dns": false}}}`, variable: "true", want: true,
			from: origin.Origin{Kind: origin.Environment, Name: "MIRRORD_REMOTE_DNS"},
		},
		{
			name: "variable under a disabled network", file: `{"feature": {"network": false}}`, variable: "true", want: true,
			from: origin.Origin{Kind: origin.Environment, Name: "MIRRORD_REMOTE_DNS"},
		},
		{name: "flag", file: `{"feature": {"network": {"dns": true}}}`, variable: "true", flag: "false", from: origin.Origin{Kind: origin.Flag, Name: "--no-remote-dns"}},
		{name: "empty variable", file: `{"feature": {"network": {"dns": false}}}`, variable: "", from: origin.Origin{Kind: origin.File, Name: "stdin", Line: 1, Column: 33}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			opts := LoadOptions{Environ: environ("MIRRORD_REMOTE_DNS", test.variable)}
			if test.flag != "" {
				opts.Overrides = []Override{{Field: path, Value: test.flag, Flag: "--no-remote-dns"}}
			}
			c := mustLoad(t, test.file, opts)
			if get(c) != test.want || c.Origin(path) != test.from {
				t.Errorf("got %v from %v, want %v from %v", get(c), c.Origin(path), test.want, test.from)
			}
		})
	}
}

// Each variable reaches its field, and says so.
func TestVariables(t *testing.T) {
	tests := map[string]struct {
		value string
		path  string
		want  string // the leaf's JSON
	}{
		"MIRRORD_IMPERSONATED_TARGET":             {"deploy/a", "target.path", `"deployment/a"`},
		"MIRRORD_TARGET_NAMESPACE":                {"ns", "target.namespace", `"ns"`},
		"MIRRORD_KUBECONFIG":                      {"/k", "kubeconfig", `"/k"`},
		"MIRRORD_KUBE_CONTEXT":                    {"c", "kube_context", `"c"`},
		"MIRRORD_ACCEPT_INVALID_CERTIFICATES":     {"true", "accept_invalid_certificates", `true`},
		"MIRRORD_KEY":                             {"k", "key", `"k"`},
		"MIRRORD_OPERATOR_ENABLE":                 {"false", "operator", `false`},
		"MIRRORD_SKIP_PROCESSES":                  {"a;b", "skip_processes", `["a","b"]`},
		"MIRRORD_AGENT_TCP_STEAL_TRAFFIC":         {"true", "feature.network.incoming.mode", `"steal"`},
		"MIRRORD_HTTP_FILTER_PORTS":               {"80;8080", "feature.network.incoming.http_filter.ports", `[80,8080]`},
		"MIRRORD_HTTP_HEADER_FILTER":              {"x", "feature.network.incoming.http_filter.header_filter", `"x"`},
		"MIRRORD_TCP_OUTGOING":                    {"false", "feature.network.outgoing.tcp", `false`},
		"MIRRORD_UDP_OUTGOING":                    {"0", "feature.network.outgoing.udp", `false`},
		"MIRRORD_OUTGOING_REMOTE_UNIX_STREAMS":    {"a.*;b", "feature.network.outgoing.unix_streams", `["a.*","b"]`},
		"MIRRORD_REMOTE_DNS":                      {"False", "feature.network.dns.enabled", `false`},
		"MIRRORD_ENABLE_IPV6":                     {"false", "feature.network.ipv6", `false`},
		"MIRRORD_OVERRIDE_ENV_VARS_INCLUDE":       {"A;B*;", "feature.env.include", `["A","B*"]`},
		"MIRRORD_OVERRIDE_ENV_VARS_EXCLUDE":       {"A", "feature.env.exclude", `["A"]`},
		"MIRRORD_OVERRIDE_ENV_VARS_FILE":          {"x.env", "feature.env.env_file", `"x.env"`},
		"MIRRORD_FILE_MODE":                       {"LocalWithOverrides", "feature.fs.mode", `"localwithoverrides"`},
		"MIRRORD_FILE_OPS":                        {"false", "feature.fs.mode", `"local"`},
		"MIRRORD_FILE_RO_OPS":                     {"true", "feature.fs.mode", `"read"`},
		"MIRRORD_AGENT_RUST_LOG":                  {"mirrord=trace,warn", "agent.log_level", `"trace"`},
		"MIRRORD_AGENT_NAMESPACE":                 {"ns", "agent.namespace", `"ns"`},
		"MIRRORD_AGENT_IMAGE":                     {"r/i:t", "agent.image", `"r/i:t"`},
		"MIRRORD_AGENT_IMAGE_REGISTRY":            {"r/i", "agent.image", `"r/i:1.2.3"`},
		"MIRRORD_AGENT_IMAGE_TAG":                 {"t", "agent.image", `"ghcr.io/mirrord-go/mirrord-agent:t"`},
		"MIRRORD_AGENT_IMAGE_PULL_POLICY":         {"Never", "agent.image_pull_policy", `"Never"`},
		"MIRRORD_AGENT_TTL":                       {"9", "agent.ttl", `9`},
		"MIRRORD_AGENT_STARTUP_TIMEOUT":           {"9", "agent.startup_timeout", `9`},
		"MIRRORD_AGENT_COMMUNICATION_TIMEOUT":     {"9", "agent.communication_timeout", `9`},
		"MIRRORD_AGENT_STEALER_FLUSH_CONNECTIONS": {"false", "agent.flush_connections", `false`},
		"MIRRORD_AGENT_DISABLED_CAPABILITIES":     {"NET_RAW;BPF", "agent.disabled_capabilities", `["NET_RAW","BPF"]`},
		"MIRRORD_EPHEMERAL_CONTAINER":             {"true", "agent.ephemeral", `true`},
	}
	for name, test := range tests {
		c := mustLoad(t, "", LoadOptions{Environ: environ(name, test.value), Version: "1.2.3"})
		found := false
		for _, leaf := range c.Leaves() {
			if leaf.Path == test.path {
				found = true
				if string(leaf.Value) != test.want || leaf.Origin != (origin.Origin{Kind: origin.Environment, Name: name}) {
					t.Errorf("%s=%s gives %s from %s, want %s", name, test.value, leaf.Value, leaf.Origin, test.want)
				}
			}
		}
		if !found {
			t.Errorf("%s: no leaf %s", name, test.path)
		}
	}
	for name, value := range map[string]string{
		"MIRRORD_IMPERSONATED_TARGET": "x", "MIRRORD_REMOTE_DNS": "maybe", "MIRRORD_AGENT_TTL": "70000", "MIRRORD_AGENT_TCP_STEAL_TRAFFIC": "some",
		"MIRRORD_HTTP_FILTER_PORTS": "80;x", "MIRRORD_FILE_MODE": "raed", "MIRRORD_FILE_OPS": "read", "MIRRORD_AGENT_IMAGE_PULL_POLICY": "x",
		"MIRRORD_AGENT_DISABLED_CAPABILITIES": "ALL", "MIRRORD_TARGET_NAMESPACE": "a/b",
	} {
		_, _, err := load(t, "", LoadOptions{Environ: environ(name, value)})
		if err == nil || !strings.HasPrefix(err.Error(), "$"+name+": ") {
			t.Errorf("%s=%s: %v", name, value, err)
		}
	}
}

func TestIncomingModes(t *testing.T) {
	for file, want := range map[string]IncomingMode{
		`true`: IncomingMirror, `false`: IncomingOff, `null`: IncomingMirror, `{}`: IncomingMirror,
		`"steal"`: IncomingSteal, `"mirror"`: IncomingMirror, `"off"`: IncomingOff, `{"mode": "steal"}`: IncomingSteal,
	} {
		if got := mustLoad(t, `{"feature": {"network": {"incoming": `+file+`}}}`, LoadOptions{}).Feature.Network.Incoming.Mode; got != want {
			t.Errorf("%s is %s, want %s", file, got, want)
		}
	}
	for value, want := range map[string]IncomingMode{"true": IncomingSteal, "false": IncomingOff, "steal": IncomingSteal, "mirror": IncomingMirror, "off": IncomingOff} {
		if got := mustLoad(t, "", LoadOptions{Environ: environ("MIRRORD_AGENT_TCP_STEAL_TRAFFIC", value)}).Feature.Network.Incoming.Mode; got != want {
			t.Errorf("the variable %s is %s, want %s", value, got, want)
		}
	}
}

func TestTargetPartsOverrideEachOther(t *testing.T) {
	file := `{"target": {"path": {"pod": "a", "container": "c"}, "namespace": "one"}}`
	c := mustLoad(t, file, LoadOptions{Environ: environ("MIRRORD_IMPERSONATED_TARGET", "job/b")})
	if c.Target.Path.String() != "job/b" || c.Target.Namespace != "one" {
		t.Errorf("got %+v", c.Target)
	}
	c = mustLoad(t, file, LoadOptions{Overrides: []Override{{Field: "target.namespace", Value: "two", Flag: "-n"}}})
	if c.Target.Path.String() != "pod/a/container/c" || c.Target.Namespace != "two" {
		t.Errorf("got %+v", c.Target)
	}
	c = mustLoad(t, file, LoadOptions{Environ: environ("MIRRORD_IMPERSONATED_TARGET", "targetless")})
	if c.Target.Path.Kind != Targetless || !c.HasTarget() {
		t.Errorf("got %+v", c.Target)
	}
}

func TestEnvOff(t *testing.T) {
	off := `{"feature": {"env": false}}`
	if c := mustLoad(t, off, LoadOptions{}); c.Feature.Env.Enabled || !cmp.Equal(c.Feature.Env.Exclude, []string{"*"}) {
		t.Errorf("got %+v", c.Feature.Env)
	}
	// A list of what is wanted switches it on again; anything else stays a contradiction.
	c := mustLoad(t, off, LoadOptions{Environ: environ("MIRRORD_OVERRIDE_ENV_VARS_INCLUDE", "A")})
	if !c.Feature.Env.Enabled || c.Feature.Env.Exclude != nil {
		t.Errorf("got %+v", c.Feature.Env)
	}
	c = mustLoad(t, `{"feature": {"env": {"exclude": "*"}}}`, LoadOptions{Environ: environ("MIRRORD_OVERRIDE_ENV_VARS_INCLUDE", "A")})
	if _, err := Finalize(c, FinalizeOptions{}); err == nil {
		t.Error("no error")
	}
}

func TestAgentImage(t *testing.T) {
	for _, test := range []struct {
		file string
		env  []string
		want string
		from origin.Kind
	}{
		{`{"agent": {"image": {"registry": "r"}}}`, nil, "r:1.2.3", origin.File},
		{`{"agent": {"image": {"tag": "t"}}}`, nil, "ghcr.io/mirrord-go/mirrord-agent:t", origin.File},
		{`{"agent": {"image": {"registry": "r", "tag": "t"}}}`, []string{"MIRRORD_AGENT_IMAGE_TAG", "u"}, "r:t", origin.File},
		{`{"agent": {"image": {"registry": "r"}}}`, []string{"MIRRORD_AGENT_IMAGE_TAG", "u"}, "r:u", origin.File},
		{`{"agent": {"image": "whole"}}`, []string{"MIRRORD_AGENT_IMAGE_TAG", "u"}, "whole", origin.File},
		{`{"agent": {"image": {"registry": "r"}}}`, []string{"MIRRORD_AGENT_IMAGE", "env"}, "env", origin.Environment},
	} {
		c := mustLoad(t, test.file, LoadOptions{Version: "1.2.3", Environ: environ(test.env...)})
		if c.Agent.Image != test.want || c.Origin("agent.image").Kind != test.from {
			t.Errorf("%s %v: %s from %s", test.file, test.env, c.Agent.Image, c.Origin("agent.image"))
		}
	}
}

func TestKey(t *testing.T) {
	const file = `{"key": "f-{{ git_branch }}", "feature": {"env": {"override": {"K": "{{ key }}"}}}}`
	branch := func(context.Context) (string, bool) { return "main", true }
	flag := []Override{{Field: "key", Value: "flag", Flag: "--key"}}
	for _, test := range []struct {
		name, file string
		opts       LoadOptions
		want       string
		from       origin.Kind
	}{
		{"flag", file, LoadOptions{Overrides: flag, Environ: environ("MIRRORD_KEY", "env"), GitBranch: branch}, "flag", origin.Flag},
		{"variable", file, LoadOptions{Environ: environ("MIRRORD_KEY", "env"), GitBranch: branch}, "env", origin.Environment},
		{"file", file, LoadOptions{GitBranch: branch}, "f-main", origin.File},
		{"branch of the environment", file, LoadOptions{GitBranch: branch, Environ: environ("MIRRORD_BRANCH_NAME", "ci")}, "f-ci", origin.File},
		{"made", strings.Replace(file, `"key": "f-{{ git_branch }}", `, "", 1), LoadOptions{NewKey: func() string { return "new" }}, "new", origin.Default},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := mustLoad(t, test.file, test.opts)
			if c.Key != test.want || c.Feature.Env.Override["K"] != test.want || c.Origin("key").Kind != test.from {
				t.Errorf("the key is %q, the template has %q, from %s", c.Key, c.Feature.Env.Override["K"], c.Origin("key"))
			}
		})
	}
	first, second := mustLoad(t, "", LoadOptions{}).Key, mustLoad(t, "", LoadOptions{}).Key
	if len(first) != 5 || first == second {
		t.Errorf("made the keys %q and %q", first, second)
	}
}

// The branch is asked for only when a template needs it: git may be slow, or not there.
func TestBranchIsLazy(t *testing.T) {
	asked := 0
	branch := func(context.Context) (string, bool) { asked++; return "", false }
	mustLoad(t, `{"key": "x", "target": "{{ get_env(name="T", default="pod/a") }}"}`, LoadOptions{GitBranch: branch})
	if asked != 0 {
		t.Errorf("asked %d times", asked)
	}
	c := mustLoad(t, `{"target": "pod/{{ git_branch | default(value="none") }}"}`, LoadOptions{GitBranch: branch})
	if asked == 0 || c.Target.Path.Name != "none" {
		t.Errorf("asked %d times, got %s", asked, c.Target.Path)
	}
	if _, _, err := load(t, `{"target": "pod/{{ git_branch }}"}`, LoadOptions{GitBranch: branch}); err == nil || !strings.HasPrefix(err.Error(), "stdin:1:20: in the template: git_branch") {
		t.Errorf("got %v", err)
	}
}

// Positions are those of the file that the user wrote, also behind what a template made.
func TestPositionsBehindTemplates(t *testing.T) {
	text := "{# one\ntwo #}{% for i in range(end=3) %}\n{% endfor %}\n{\"profile\": \"{{ get_env(name=\"LONG\") }}\", \"nope\": 1}"
	_, _, err := load(t, text, LoadOptions{Environ: environ("LONG", strings.Repeat("x\\n", 500))})
	if err == nil || !strings.HasPrefix(err.Error(), `stdin:4:43: a configuration has no field "nope"`) {
		t.Errorf("got %v", err)
	}
}

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	_, _, err := Load(t.Context(), LoadOptions{Path: filepath.Join(dir, "none.json")})
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "none.json") {
		t.Errorf("got %v", err)
	}
	if _, _, err := Load(t.Context(), LoadOptions{Path: dir}); err == nil {
		t.Error("a folder is no file")
	}
	if _, _, err := Load(t.Context(), LoadOptions{Path: "-"}); err == nil {
		t.Error("there is no standard input")
	}
	for name, text := range map[string]string{
		"config": `{"profile": "p"}`, ".mirrord": `{"profile": "p"}`, "a.JSON": `{"profile": "p"}`, "a.yml": "profile: p", "a.toml": `profile = "p"`, "bom.json": "\xef\xbb\xbf{\"profile\": \"p\"}",
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, _, err := Load(t.Context(), LoadOptions{Path: path})
		if err != nil || c.Profile != "p" {
			t.Errorf("%s: %v", name, err)
		}
	}
	big := filepath.Join(dir, "big.json")
	if err := os.WriteFile(big, []byte(`{"a": "`+strings.Repeat("x", tree.MaxSize)+`"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Load(t.Context(), LoadOptions{Path: big}); err == nil || !strings.Contains(err.Error(), "is larger than 4 MiB") {
		t.Errorf("got %v", err)
	}
}

func TestLoadStopsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	text := strings.Repeat("{% for a in range(end=9999) %}", 3) + strings.Repeat("{% endfor %}", 3)
	if _, _, err := Load(ctx, LoadOptions{Path: "-", Stdin: strings.NewReader(text)}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestLargeFileIsFast(t *testing.T) {
	var b strings.Builder
	b.WriteString(`{"feature": {"env": {"override": {`)
	for i := range 30000 {
		fmt.Fprintf(&b, "\"NAME_%d\": \"value %d\",\n", i, i)
	}
	b.WriteString(`}}}}`)
	start := time.Now()
	c := mustLoad(t, b.String(), LoadOptions{})
	took := time.Since(start)
	t.Logf("%d KiB in %v", b.Len()>>10, took)
	if len(c.Feature.Env.Override) != 30000 || took > 20*time.Second {
		t.Errorf("%d variables, %v", len(c.Feature.Env.Override), took)
	}
}

// A text that looks like a template is none when it is written out.
func TestResolvedHasNoTemplates(t *testing.T) {
	const odd = `{{{ a }} {% b %} {# c #} {`
	c := mustLoad(t, "", LoadOptions{})
	c.Feature.Env.Override = map[string]string{"A": odd}
	resolved, err := c.Resolved()
	if err != nil {
		t.Fatal(err)
	}
	if again := mustLoad(t, string(resolved), LoadOptions{}); again.Feature.Env.Override["A"] != odd {
		t.Errorf("%q became %q", odd, again.Feature.Env.Override["A"])
	}
}

func TestOrigins(t *testing.T) {
	c := mustLoad(t, "{\"feature\": {\"network\": {\"outgoing\": {\"filter\": {\"local\": [\n\"a\",\n\"b\"]}}}}}", LoadOptions{})
	const list = "feature.network.outgoing.filter.local"
	for path, line := range map[string]int{list: 1, list + "[0]": 2, list + "[1]": 3, list + "[1].x": 3} {
		if got := c.Origin(path); got.Line != line || got.Kind != origin.File {
			t.Errorf("%s comes from %s", path, got)
		}
	}
	// A profile sets the whole filter, and nothing is left of what it had.
	from := origin.Origin{Kind: origin.Profile, Name: "p", Adjustment: 2}
	c.SetOrigin("feature.network.outgoing.filter", from)
	for _, path := range []string{list, list + "[1]", "feature.network.outgoing.filter"} {
		if got := c.Origin(path); got != from {
			t.Errorf("%s comes from %s", path, got)
		}
	}
	if got := c.Origin("feature.network.outgoing.tcp"); got != (origin.Origin{}) {
		t.Errorf("a default comes from %s", got)
	}
	if got := (&Config{}).Origin("a.b[3]"); got != (origin.Origin{}) {
		t.Errorf("got %s", got)
	}
}

// A terminal at which nobody types, or a pipe that says nothing, is not waited for when the
// user has given up.
func TestLoadGivenUp(t *testing.T) {
	in, silent := io.Pipe()
	defer silent.Close()
	ctx, giveUp := context.WithCancelCause(t.Context())
	given := errors.New("given up")
	done := make(chan error, 1)
	go func() {
		_, _, err := Load(ctx, LoadOptions{Path: "-", Stdin: in})
		done <- err
	}()
	giveUp(given)
	select {
	case err := <-done:
		if !errors.Is(err, given) {
			t.Errorf("error %v, want %v", err, given)
		}
	case <-time.After(time.Minute):
		t.Error("still reading")
	}
}

// FuzzLoad reads anything as each of the formats: it ends with a configuration that can be
// finalized and written out, or with an error.
func FuzzLoad(f *testing.F) {
	files, err := filepath.Glob("testdata/corpus/*.*")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		if extension := filepath.Ext(file); extension != ".golden" {
			f.Add(extension, text)
		}
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, extension string, text []byte) {
		if extension != ".yaml" && extension != ".toml" {
			extension = ".json"
		}
		path := filepath.Join(dir, "fuzz"+extension)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		c, _, err := Load(t.Context(), testOptions(path))
		if err != nil {
			var problems *Problems
			if errors.As(err, &problems) && len(problems.List) == 0 {
				t.Error("an error without a problem")
			}
			return
		}
		_, _ = Finalize(c, FinalizeOptions{})
		resolved, err := c.Resolved()
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := load(t, string(resolved), LoadOptions{}); err != nil {
			t.Errorf("what was written cannot be read: %v\n%s", err, resolved)
		}
	})
}
