package config_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mirrord-go/mirrord/api/profiles/v1alpha"
	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/config/origin"
	"github.com/mirrord-go/mirrord/internal/profile"
)

// finalize loads text, applies changes as a profile does, and finalizes.
func finalize(t *testing.T, text string, opts config.FinalizeOptions, changes ...v1alpha.Change) (*config.Config, config.Warnings, error) {
	t.Helper()
	c, _, err := config.Load(t.Context(), config.LoadOptions{Path: "-", Stdin: strings.NewReader(text)})
	if err != nil {
		t.Fatal(err)
	}
	if len(changes) > 0 {
		p := &profile.Profile{Ref: profile.Ref{Name: "base"}}
		for _, change := range changes {
			p.Adjustments = append(p.Adjustments, v1alpha.FeatureAdjustment{Change: change})
		}
		if _, err := profile.Apply(c, p); err != nil {
			t.Fatal(err)
		}
	}
	warnings, err := config.Finalize(c, opts)
	return c, warnings, err
}

// wants checks that the error is none for an empty want, and else that it has a line with it.
func wants(t *testing.T, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("got %v", err)
	case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
		t.Errorf("got %v, want %q", err, want)
	}
}

// What is looked at is what comes of a profile, not what the file had.
func TestFinalizeAfterAProfile(t *testing.T) {
	const filters = `{"target": "pod/a", "feature": {"network": {
		"outgoing": {"filter": {"local": ["db", "tcp://cache:6379"]}, "unix_streams": "^/run"},
		"dns": {"filter": {"remote": ["x"]}},
		"incoming": {"mode": "steal", "http_filter": {"path_filter": "^/api"}}}}}`
	const kept = "path ^/api"
	tests := []struct {
		name, text string
		changes    []v1alpha.Change
		want       string
	}{
		{"nothing changed", filters, nil, ""},
		{"outgoing-remote replaces the filter", filters, []v1alpha.Change{v1alpha.OutgoingRemote, v1alpha.DNSRemote, v1alpha.IncomingOff}, ""},
		{"outgoing-off replaces the filter", filters, []v1alpha.Change{v1alpha.OutgoingOff, v1alpha.DNSOff, v1alpha.IncomingOff}, ""},
		{"incoming-off leaves the filter", filters, []v1alpha.Change{v1alpha.DNSRemote, v1alpha.IncomingOff}, ""},
		{"incoming-steal keeps the filter", filters, []v1alpha.Change{v1alpha.OutgoingRemote, v1alpha.DNSRemote, v1alpha.IncomingSteal}, ""},
		{"incoming-mirror keeps the filter", filters, []v1alpha.Change{v1alpha.OutgoingRemote, v1alpha.DNSRemote, v1alpha.IncomingMirror}, ""},
		{"remote Unix sockets of a profile", `{"target": "pod/a"}`, []v1alpha.Change{v1alpha.OutgoingRemote}, ""},
		{"steal of a profile without a target", `{}`, []v1alpha.Change{v1alpha.IncomingSteal}, `profile "base", adjustment 1: feature.network.incoming.mode: traffic can only be stolen from a target`},
		{"a profile switches steal off", `{"feature": {"network": {"incoming": "steal"}}}`, []v1alpha.Change{v1alpha.IncomingOff}, ""},
		{"steal is kept", `{"feature": {"network": {"incoming": "steal"}}}`, []v1alpha.Change{v1alpha.DNSOff}, "stdin:1:38: feature.network.incoming.mode"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c, warnings, err := finalize(t, test.text, config.FinalizeOptions{}, test.changes...)
			wants(t, err, test.want)
			if test.want == "" && len(warnings) > 0 {
				t.Errorf("warnings: %v", warnings.Strings())
			}
			if test.text == filters && c.Feature.Network.Incoming.HTTPFilter.String() != kept {
				t.Errorf("the filter is %v: no change of a profile is about it", c.Feature.Network.Incoming.HTTPFilter)
			}
		})
	}
}

// Names of the outgoing filter are resolved on the side that their connections leave from,
// and nothing of them is left when a profile replaces the filter.
func TestDerivedDNSFilter(t *testing.T) {
	const local, remote = `{"local": ["db", "tcp://db:5432", "10.0.0.0/8", ":80", "udp://cache:53"]}`, `{"remote": ["db", "cache:6379"]}`
	tests := []struct {
		name, outgoing, dns string
		changes             []v1alpha.Change
		want                *config.Filter
		derived             bool
		warning             string
	}{
		{name: "local makes a filter", outgoing: local, dns: "true", want: &config.Filter{Local: []string{"db", "cache"}}, derived: true},
		{name: "remote needs none", outgoing: remote, dns: "true"},
		{name: "local joins local", outgoing: local, dns: `{"filter": {"local": ["x", "db"]}}`, want: &config.Filter{Local: []string{"x", "db", "cache"}}},
		{name: "remote joins remote", outgoing: remote, dns: `{"filter": {"remote": ["x"]}}`, want: &config.Filter{Remote: []string{"x", "db", "cache"}}},
		{name: "opposite sides stay", outgoing: local, dns: `{"filter": {"remote": ["x", "db"]}}`, want: &config.Filter{Remote: []string{"x", "db"}}, warning: `dns.filter.remote[1]: "db" is resolved on one side`},
		{name: "opposite sides stay, the other way", outgoing: remote, dns: `{"filter": {"local": ["cache"]}}`, want: &config.Filter{Local: []string{"cache"}}, warning: `dns.filter.local[0]: "cache" is resolved on one side`},
		{name: "DNS is off", outgoing: local, dns: "false"},
		{name: "no names", outgoing: `{"local": ["10.0.0.0/8"]}`, dns: "true"},
		{name: "replaced by outgoing-remote", outgoing: local, dns: "true", changes: []v1alpha.Change{v1alpha.OutgoingRemote}},
		{name: "replaced by outgoing-off", outgoing: local, dns: "true", changes: []v1alpha.Change{v1alpha.OutgoingOff}},
		{name: "dns-off", outgoing: local, dns: "true", changes: []v1alpha.Change{v1alpha.DNSOff}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			text := `{"target": "pod/a", "feature": {"network": {"outgoing": {"filter": ` + test.outgoing + `}, "dns": ` + test.dns + `}}}`
			c, warnings, _ := finalize(t, text, config.FinalizeOptions{}, test.changes...)
			if diff := cmp.Diff(test.want, c.Feature.Network.DNS.Filter); diff != "" {
				t.Error(diff)
			}
			if derived := c.Origin("feature.network.dns.filter.local").Kind == origin.Derived; derived != test.derived {
				t.Errorf("the filter comes from %s", c.Origin("feature.network.dns.filter.local"))
			}
			if all := strings.Join(warnings.Strings(), "\n"); !strings.Contains(all, test.warning) {
				t.Errorf("warnings: %s", all)
			}
			once := c.Feature.Network.DNS.Filter
			if _, _ = config.Finalize(c, config.FinalizeOptions{}); !cmp.Equal(once, c.Feature.Network.DNS.Filter) {
				t.Error("the second time changes it again")
			}
		})
	}
}

func TestTargetUndecided(t *testing.T) {
	const steal = `{"feature": {"network": {"incoming": "steal"}}, "agent": {"ephemeral": true, "namespace": "x"}`
	undecided := config.FinalizeOptions{TargetUndecided: true}
	_, warnings, err := finalize(t, steal+`}`, undecided)
	wants(t, err, "")
	if len(warnings) > 0 {
		t.Errorf("warnings: %v", warnings.Strings())
	}
	_, _, err = finalize(t, steal+`}`, config.FinalizeOptions{})
	wants(t, err, "ephemeral container needs a target")
	_, _, err = finalize(t, steal+`, "target": "targetless"}`, undecided)
	wants(t, err, "traffic can only be stolen from a target")
}

// A configuration that cannot be loaded is told as far as that is certain: what a profile
// may still change is not.
func TestLoadTellsWhatIsCertain(t *testing.T) {
	const rest = `"oops": 1, "feature": {"env": {"include": "A", "exclude": "B"}, "network": {"incoming": {"mode": "steal", "http_filter": {"path_filter": "a", "method_filter": "b"}}}, "split_queues": {"a": {}}}}`
	load := func(text string) string {
		_, _, err := config.Load(t.Context(), config.LoadOptions{Path: "-", Stdin: strings.NewReader(text)})
		if err == nil {
			t.Fatal("no error")
		}
		return err.Error()
	}
	without := load(`{` + rest)
	for _, want := range []string{"oops", "include", "there can be one filter", "split_queues: is not supported"} {
		if !strings.Contains(without, want) {
			t.Errorf("%q is missing from\n%s", want, without)
		}
	}
	if strings.Contains(without, "stolen from a target") {
		t.Errorf("the target is not certain:\n%s", without)
	}
	with := load(`{"profile": "p", ` + rest)
	if !strings.Contains(with, "include") || !strings.Contains(with, "split_queues") {
		t.Errorf("no profile changes these:\n%s", with)
	}
}

func TestLeaves(t *testing.T) {
	c, _, err := finalize(t, `{"target": "deploy/a", "feature": {"hostname": true, "magic": {"aws": true}}}`, config.FinalizeOptions{}, v1alpha.DNSOff)
	wants(t, err, "")
	got := map[string]string{}
	last := ""
	for _, leaf := range c.Leaves() {
		if !json.Valid(leaf.Value) {
			t.Errorf("%s: %s", leaf.Path, leaf.Value)
		}
		got[leaf.Path] = string(leaf.Value) + " " + leaf.Origin.String()
		last = leaf.Path
	}
	for path, want := range map[string]string{
		"target.path":                      `"deployment/a" stdin:1:12`,
		"target.namespace":                 `null default`,
		"feature.network.dns.enabled":      `false profile "base", adjustment 1`,
		"feature.network.dns.filter.local": `null profile "base", adjustment 1`,
		"feature.network.incoming.mode":    `"mirror" default`,
		"feature.magic.aws":                `true stdin:1:71`,
		"accept_invalid_certificates":      `null default`,
		"feature.network.incoming.ports":   `null default`,
		"agent.startup_timeout":            `60 default`,
		"feature.network.outgoing.udp":     `true default`,
		"feature.network.outgoing.filter":  "",
	} {
		if got[path] != want {
			t.Errorf("%s: %s, want %s", path, got[path], want)
		}
	}
	if _, there := got["feature.magic.turbo"]; there {
		t.Error("nobody set feature.magic.turbo, and nothing uses it")
	}
	if !strings.HasPrefix(last, "agent.") {
		t.Errorf("the last leaf is %s", last)
	}
}

func TestResolvedTarget(t *testing.T) {
	for text, want := range map[string]string{
		`{}`:                       `{"path":null}`,
		`{"target": "targetless"}`: `{"path":"targetless"}`,
		`{"target": {"pod": "a"}}`: `{"path":"pod/a"}`,
		`{"target": {"path": "deploy/a/container/b", "namespace": "n"}}`: `{"namespace":"n","path":"deployment/a/container/b"}`,
	} {
		c, _, _ := finalize(t, text, config.FinalizeOptions{})
		resolved, err := c.Resolved()
		if err != nil {
			t.Fatal(err)
		}
		var file struct{ Target json.RawMessage }
		var compact bytes.Buffer
		if err := json.Compact(&compact, resolved); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(compact.Bytes(), &file); err != nil {
			t.Fatal(err)
		}
		if got := string(file.Target); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

func TestProblemText(t *testing.T) {
	p := config.Problem{Path: "a.b", Origin: origin.Origin{Kind: origin.File, Name: "f.json", Line: 3, Column: 4}, Message: "is wrong", Suggestion: "mend it"}
	if got := p.String(); got != "f.json:3:4: a.b: is wrong; mend it" {
		t.Errorf("got %q", got)
	}
	list := &config.Problems{List: []config.Problem{p, {Message: "all is wrong"}}}
	if got := list.Error(); got != "f.json:3:4: a.b: is wrong; mend it\nall is wrong" {
		t.Errorf("got %q", got)
	}
}

// Any two of the seven filters contradict each other.
func TestTwoFilters(t *testing.T) {
	filters := map[string]string{
		"header_filter": `"a: b"`, "path_filter": `"^/api"`, "method_filter": `"GET"`, "header_filter_jq": `"true"`,
		"body_filter": `{"body": "json", "query": "$.a", "matches": "b"}`,
		"all_of":      `[{"method": "GET"}]`, "any_of": `[{"path": "/"}]`,
	}
	names := slices.Sorted(maps.Keys(filters))
	for i, a := range names {
		for j, b := range names[i:] {
			parts := fmt.Sprintf("%q: %s, %q: %s", a, filters[a], b, filters[b])
			want := "there can be one filter"
			if j == 0 {
				parts, want = fmt.Sprintf("%q: %s", a, filters[a]), ""
			}
			text := `{"target": "pod/a", "feature": {"network": {"incoming": {"mode": "steal", "http_filter": {` + parts + `}}}}}`
			_, _, err := finalize(t, text, config.FinalizeOptions{})
			wants(t, err, want)
		}
	}
}
