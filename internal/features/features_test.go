package features

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	sessions "github.com/mirrord-go/mirrord/api/sessions/v1alpha"
	"github.com/mirrord-go/mirrord/internal/config"
)

func TestFromConfig(t *testing.T) {
	cfg, _, err := config.Load(t.Context(), config.LoadOptions{Overrides: []config.Override{
		{Field: "target.path", Value: "pod/shop", Flag: "--target"},
		{Field: "feature.network.incoming.mode", Value: "steal", Flag: "--steal"},
		{Field: "feature.network.outgoing.udp", Value: "false", Flag: "--no-udp-outgoing"},
		{Field: "feature.env.exclude", Value: "AWS_*", Flag: "-x"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	cfg.Feature.Network.Incoming.Ports = []uint16{80, 65535}
	cfg.Feature.Network.Outgoing.Filter = &config.Filter{Local: []string{"tcp://db:5432"}}
	if _, err := config.Finalize(cfg, config.FinalizeOptions{}); err != nil {
		t.Log(err) // whether filters are supported does not matter here
	}
	want := sessions.Features{
		Incoming: sessions.Incoming{Mode: "steal", Ports: []int32{80, 65535}},
		Outgoing: sessions.Outgoing{TCP: true, Filter: &sessions.Filter{Side: "local", Entries: []string{"tcp://db:5432"}}},
		DNS:      sessions.DNS{Enabled: true, Filter: &sessions.Filter{Side: "local", Entries: []string{"db"}}},
		Env:      sessions.Env{Enabled: true, Exclude: []string{"AWS_*"}},
		Files:    sessions.Files{Mode: "read"},
	}
	got := FromConfig(cfg)
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Error(diff)
	}
	if err := Check(got); err != nil {
		t.Error(err)
	}
}

func TestThereAndBack(t *testing.T) {
	for _, f := range []sessions.Features{
		{Incoming: sessions.Incoming{Mode: "off"}, Files: sessions.Files{Mode: "local"}},
		{
			Incoming: sessions.Incoming{Mode: "mirror", Ports: []int32{1}, IgnorePorts: []int32{65535}},
			Outgoing: sessions.Outgoing{TCP: true, UDP: true, IgnoreLocalhost: true, UnixStreams: []string{".*"}, Filter: &sessions.Filter{Side: "remote", Entries: []string{"10.0.0.0/8"}}},
			DNS:      sessions.DNS{Enabled: true, Filter: &sessions.Filter{Side: "local", Entries: []string{}}},
			Env:      sessions.Env{Enabled: true, Include: []string{"A"}},
			Files:    sessions.Files{Mode: "write"},
		},
		filtered(sessions.HTTPFilter{HTTPFilterRule: sessions.HTTPFilterRule{Header: "^a: b$"}}),
		filtered(sessions.HTTPFilter{HTTPFilterRule: sessions.HTTPFilterRule{HeaderJQ: "true"}, Ports: []int32{80}}),
		filtered(sessions.HTTPFilter{HTTPFilterRule: sessions.HTTPFilterRule{Body: &sessions.HTTPBody{Query: "$.a", Matches: "b"}}}),
		filtered(sessions.HTTPFilter{AllOf: []sessions.HTTPFilterRule{
			{Header: "a"}, {Path: "b"}, {Method: "GET"}, {HeaderJQ: "true"}, {Body: &sessions.HTTPBody{Query: "$.a", Matches: "b"}},
		}}),
		filtered(sessions.HTTPFilter{AnyOf: []sessions.HTTPFilterRule{{Path: "a"}}, Ports: []int32{1, 2}}),
	} {
		cfg, err := ToConfig(f)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(f, FromConfig(cfg)); diff != "" {
			t.Error(diff)
		}
	}
}

func filtered(f sessions.HTTPFilter) sessions.Features {
	return sessions.Features{Incoming: sessions.Incoming{Mode: "steal", Filter: &f}, Files: sessions.Files{Mode: "local"}}
}

func TestCheckHTTPFilterText(t *testing.T) {
	for _, r := range []sessions.HTTPFilterRule{{Header: "("}, {Path: "["}, {HeaderJQ: "nosuch(1)"}, {Body: &sessions.HTTPBody{Query: "a..", Matches: "x"}}} {
		for _, f := range []sessions.HTTPFilter{{HTTPFilterRule: r}, {AllOf: []sessions.HTTPFilterRule{r}}} {
			if err := Check(filtered(f)); err == nil || !strings.HasPrefix(err.Error(), "incoming.filter: ") {
				t.Errorf("%+v: %v", f, err)
			}
		}
	}
}

func TestCheck(t *testing.T) {
	f := sessions.Features{
		Incoming: sessions.Incoming{
			Mode: "Steal", Ports: []int32{0, 80}, IgnorePorts: []int32{-1, 65536},
			Filter: &sessions.HTTPFilter{
				HTTPFilterRule: sessions.HTTPFilterRule{Header: "a: b", Path: "/"},
				AllOf:          []sessions.HTTPFilterRule{{}, {Method: "GET"}},
				AnyOf:          []sessions.HTTPFilterRule{},
				Ports:          []int32{70000},
			},
		},
		Outgoing: sessions.Outgoing{Filter: &sessions.Filter{Side: "both", Entries: []string{"fine:1", "ftp://x"}}},
		DNS:      sessions.DNS{Filter: &sessions.Filter{Side: "local", Entries: []string{"a b"}}},
	}
	err := Check(f)
	if err == nil {
		t.Fatal("all is well")
	}
	var paths []string
	for line := range strings.SplitSeq(err.Error(), "\n") {
		path, _, _ := strings.Cut(line, ": ")
		paths = append(paths, path)
	}
	want := []string{
		"incoming.mode", "files.mode", "incoming.ports[0]", "incoming.ignorePorts[0]", "incoming.ignorePorts[1]",
		"outgoing.filter.side", "outgoing.filter.entries[1]", "dns.filter.entries[0]",
		"incoming.filter.allOf[0]", "incoming.filter.anyOf", "incoming.filter", "incoming.filter.ports[0]",
	}
	if diff := cmp.Diff(want, paths); diff != "" {
		t.Error(diff)
	}
	if _, err := ToConfig(f); err == nil {
		t.Error("it becomes a configuration")
	}
}

// FuzzToConfig holds that features which pass the check survive the way there and back.
func FuzzToConfig(f *testing.F) {
	f.Add([]byte(`{"incoming":{"mode":"steal","ports":[80]},"outgoing":{"tcp":true,"filter":{"side":"local","entries":["a:1"]}},"dns":{"enabled":true},"env":{"enabled":true},"files":{"mode":"local"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var features sessions.Features
		if json.Unmarshal(data, &features) != nil {
			return
		}
		cfg, err := ToConfig(features)
		if err != nil {
			return
		}
		if diff := cmp.Diff(features, FromConfig(cfg), cmpopts.EquateEmpty()); diff != "" {
			t.Error(diff)
		}
	})
}
