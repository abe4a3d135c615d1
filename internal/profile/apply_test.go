package profile

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/mirrord-go/mirrord/api/profiles/v1alpha"
	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/config/origin"
)

// userConfig returns a configuration in which every value that a profile could touch, and
// every neighbour that it must not touch, is set by the user.
func userConfig() *config.Config {
	cfg := &config.Config{
		Target: config.Target{
			Path:      config.TargetPath{Kind: config.Deployment, Name: "shop", Container: "web"},
			Namespace: "store",
		},
		Feature: config.Feature{
			Network: config.Network{
				Incoming: config.Incoming{
					Mode:            config.IncomingSteal,
					PortMapping:     [][2]uint16{{8080, 80}},
					IgnorePorts:     []uint16{9000},
					Ports:           []uint16{80, 443},
					IgnoreLocalhost: true,
				},
				Outgoing: config.Outgoing{
					TCP: true, UDP: false, IgnoreLocalhost: true,
					Filter:      &config.Filter{Local: []string{"db.example"}},
					UnixStreams: []string{"^/run/.*"},
				},
				DNS:  config.DNS{Enabled: false, Filter: &config.Filter{Remote: []string{"shop"}}},
				IPv6: true,
			},
			Env:      config.Env{Enabled: true, Include: []string{"DB_*"}},
			FS:       config.FS{Mode: config.FSLocal},
			Hostname: true,
		},
		Agent: config.Agent{Image: "registry/agent"},
	}
	for _, path := range []string{
		pathIncomingMode, pathDNSEnabled, pathDNSFilter, pathTCP, pathUDP, pathFilter,
		pathUnixStreams, pathNamespace, "feature.network.outgoing.ignore_localhost",
	} {
		cfg.SetOrigin(path, origin.Origin{Kind: origin.Flag, Name: "--by-user"})
	}
	return cfg
}

// cluster returns a cluster-wide profile with these changes.
func cluster(changes ...v1alpha.Change) *Profile {
	p := &Profile{Ref: Ref{Name: "base"}}
	for _, change := range changes {
		p.Adjustments = append(p.Adjustments, v1alpha.FeatureAdjustment{Change: change})
	}
	return p
}

// settings compares configurations without their origins.
var settings = cmpopts.IgnoreUnexported(config.Config{})

func TestApplyHasExactlyTheDocumentedEffect(t *testing.T) {
	everything := []string{".*"}
	tests := []struct {
		change v1alpha.Change
		effect func(*config.Network)
		paths  []string
	}{
		{v1alpha.IncomingMirror, func(n *config.Network) { n.Incoming.Mode = config.IncomingMirror }, []string{pathIncomingMode}},
		{v1alpha.IncomingSteal, func(n *config.Network) { n.Incoming.Mode = config.IncomingSteal }, []string{pathIncomingMode}},
		{v1alpha.IncomingOff, func(n *config.Network) { n.Incoming.Mode = config.IncomingOff }, []string{pathIncomingMode}},
		{v1alpha.DNSRemote, func(n *config.Network) { n.DNS = config.DNS{Enabled: true} }, []string{pathDNSEnabled, pathDNSFilter}},
		{v1alpha.DNSOff, func(n *config.Network) { n.DNS = config.DNS{} }, []string{pathDNSEnabled, pathDNSFilter}},
		{v1alpha.OutgoingRemote, func(n *config.Network) {
			n.Outgoing = config.Outgoing{TCP: true, UDP: true, IgnoreLocalhost: true, UnixStreams: everything}
		}, []string{pathTCP, pathUDP, pathFilter, pathUnixStreams}},
		{v1alpha.OutgoingOff, func(n *config.Network) {
			n.Outgoing = config.Outgoing{IgnoreLocalhost: true}
		}, []string{pathTCP, pathUDP, pathFilter, pathUnixStreams}},
	}
	covered := map[v1alpha.Change]bool{}
	for _, test := range tests {
		covered[test.change] = true
		t.Run(string(test.change), func(t *testing.T) {
			got, want := userConfig(), userConfig()
			test.effect(&want.Feature.Network)
			report, err := Apply(got, cluster(test.change))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got, settings); diff != "" {
				t.Errorf("configuration (-want +got):\n%s", diff)
			}
			var paths []string
			for _, effect := range report.Steps[0].Effects {
				paths = append(paths, effect.Path)
				if effect.FromOrigin.Name != "--by-user" {
					t.Errorf("%s was set by %v before, not by the user", effect.Path, effect.FromOrigin)
				}
				wantOrigin := origin.Origin{Kind: origin.Profile, Name: "base", Adjustment: 1}
				leaves := []string{effect.Path}
				if strings.HasSuffix(effect.Path, ".filter") {
					leaves = append(leaves, effect.Path+".local", effect.Path+".remote")
				}
				for _, leaf := range leaves {
					if got := got.Origin(leaf); got != wantOrigin {
						t.Errorf("origin of %s = %v", leaf, got)
					}
				}
			}
			if diff := cmp.Diff(test.paths, paths); diff != "" {
				t.Errorf("reported paths (-want +got):\n%s", diff)
			}
			if got := got.Origin("feature.network.outgoing.ignore_localhost").Kind; got != origin.Flag {
				t.Errorf("ignore_localhost has the origin %d, not the user's flag", got)
			}
		})
	}
	for _, change := range v1alpha.Changes() {
		if !covered[change] {
			t.Errorf("no test for %s", change)
		}
	}
}

func TestApplyLaterAdjustmentWins(t *testing.T) {
	cfg := userConfig()
	report, err := Apply(cfg, cluster(v1alpha.IncomingOff, v1alpha.OutgoingRemote, v1alpha.IncomingMirror, v1alpha.OutgoingOff, v1alpha.IncomingSteal))
	if err != nil {
		t.Fatal(err)
	}
	network := cfg.Feature.Network
	if network.Incoming.Mode != config.IncomingSteal || network.Outgoing.TCP || network.Outgoing.UnixStreams != nil {
		t.Errorf("network = %+v", network)
	}
	for path, number := range map[string]int{pathIncomingMode: 5, pathTCP: 4, pathFilter: 4, pathUnixStreams: 4} {
		if got := cfg.Origin(path).Adjustment; got != number {
			t.Errorf("%s comes from adjustment %d, want %d", path, got, number)
		}
	}
	var superseded []int
	for _, step := range report.Steps {
		superseded = append(superseded, step.Effects[0].Superseded)
	}
	if diff := cmp.Diff([]int{5, 4, 5, 0, 0}, superseded); diff != "" {
		t.Errorf("superseded (-want +got):\n%s", diff)
	}
}

func TestReportSaysWhenNothingChanges(t *testing.T) {
	tests := []struct {
		name    string
		profile *Profile
		target  string
		nothing bool
		summary string
	}{
		{"no adjustments", cluster(), "", true, `profile "base" has no adjustments: it changes nothing`},
		{"as it was", cluster(v1alpha.IncomingSteal), "", true, `profile "base": incoming-steal: the configuration is so already, it changes nothing`},
		{"there and back", cluster(v1alpha.IncomingOff, v1alpha.IncomingSteal), "", true, `profile "base": incoming-off, incoming-steal: the configuration is so already, it changes nothing`},
		{"a change", cluster(v1alpha.IncomingOff), "", false, `profile "base": incoming-off`},
		{"only a namespace", &Profile{Ref: Ref{"team", "base"}}, "", false, `profile "team/base" has no adjustments; target namespace "team"`},
		{"namespace set before", &Profile{Ref: Ref{"team", "base"}}, "team", true, `profile "team/base" has no adjustments: it changes nothing`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			cfg := userConfig()
			cfg.Target.Namespace = test.target
			report, err := Apply(cfg, test.profile)
			if err != nil {
				t.Fatal(err)
			}
			if report.ChangesNothing() != test.nothing {
				t.Errorf("ChangesNothing() = %v", report.ChangesNothing())
			}
			if got := report.Summary(); got != test.summary {
				t.Errorf("Summary() = %q, want %q", got, test.summary)
			}
		})
	}
}

func TestApplyNamespace(t *testing.T) {
	for _, path := range []config.TargetPath{{}, {Kind: config.Deployment, Name: "shop"}} {
		cfg := &config.Config{Target: config.Target{Path: path}}
		if _, err := Apply(cfg, &Profile{Ref: Ref{"team", "base"}}); err != nil {
			t.Fatal(err)
		}
		if got, want := cfg.Target.Namespace, "team"; got != want {
			t.Errorf("%v: target namespace = %q, want %q", path, got, want)
		}
		want := origin.Origin{Kind: origin.Profile, Name: "team/base"}
		if got := cfg.Origin(pathNamespace); got != want {
			t.Errorf("%v: origin = %v, want %v", path, got, want)
		}

		cfg.Target.Namespace = "other"
		_, err := Apply(cfg, &Profile{Ref: Ref{"team", "base"}})
		if _, ok := errors.AsType[*NamespaceConflictError](err); !ok {
			t.Errorf("%v: a target in another namespace: %v", path, err)
		}
	}
}

func TestApplyRefusesNewerProfilesAsAWhole(t *testing.T) {
	newer := cluster(v1alpha.IncomingOff, "incoming-teleport")
	fields := cluster(v1alpha.IncomingOff)
	fields.UnknownFields = []string{"spec.priority"}
	conflicting := cluster(v1alpha.IncomingOff)
	conflicting.Ref.Namespace = "elsewhere"
	for _, p := range []*Profile{newer, fields, conflicting} {
		cfg := userConfig()
		_, err := Apply(cfg, p)
		if err == nil {
			t.Fatalf("%+v applied", p)
		}
		if diff := cmp.Diff(userConfig(), cfg, settings); diff != "" {
			t.Errorf("%v, yet the configuration changed (-want +got):\n%s", err, diff)
		}
		if cfg.Origin(pathIncomingMode).Kind != origin.Flag {
			t.Errorf("%v, yet an origin changed", err)
		}
	}
	_, err := Apply(userConfig(), newer)
	if e, ok := errors.AsType[*UnknownValueError](err); !ok || e.Adjustment != 2 || !strings.Contains(e.Hint(), "upgrade") {
		t.Errorf("unknown value: %v", err)
	}
	_, err = Apply(userConfig(), fields)
	if _, ok := errors.AsType[*UnknownFieldError](err); !ok {
		t.Errorf("unknown field: %v", err)
	}
}
