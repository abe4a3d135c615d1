package resolve

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/mirrord-go/mirrord/api/profiles/v1alpha"
	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/config/origin"
	"github.com/mirrord-go/mirrord/internal/profile"
)

// fakeStore has one profile.
type fakeStore struct {
	profile profile.Profile
	opened  int
	closed  int
}

func (s *fakeStore) open(*config.Config) (Store, error) { s.opened++; return s, nil }
func (s *fakeStore) Close() error                       { s.closed++; return nil }

func (s *fakeStore) Get(_ context.Context, ref profile.Ref) (*profile.Profile, error) {
	if ref != s.profile.Ref {
		return nil, &profile.NotFoundError{Ref: ref}
	}
	return &s.profile, nil
}

func (s *fakeStore) List(context.Context, string) ([]profile.Profile, error) {
	return []profile.Profile{s.profile}, nil
}

func newStore(ref profile.Ref, changes ...v1alpha.Change) *fakeStore {
	s := &fakeStore{profile: profile.Profile{Ref: ref}}
	for _, change := range changes {
		s.profile.Adjustments = append(s.profile.Adjustments, v1alpha.FeatureAdjustment{Change: change})
	}
	return s
}

// flags are a configuration of flags alone.
func flags(values ...string) config.LoadOptions {
	var load config.LoadOptions
	for i := 0; i < len(values); i += 2 {
		load.Overrides = append(load.Overrides, config.Override{Field: values[i], Value: values[i+1], Flag: "--flag"})
	}
	return load
}

func TestRunWithoutProfileOpensNoStore(t *testing.T) {
	s := newStore(profile.Ref{Name: "base"})
	r, err := Run(t.Context(), Options{Config: flags("target.path", "pod/shop"), Store: s.open})
	if err != nil {
		t.Fatal(err)
	}
	if s.opened != 0 || r.Profile != nil || r.Report.Summary() != "no profile" || r.Warnings == nil {
		t.Errorf("opened %d, resolved %+v", s.opened, r)
	}
}

func TestRunAppliesTheProfileBeforeChecks(t *testing.T) {
	s := newStore(profile.Ref{Namespace: "team", Name: "base"}, v1alpha.IncomingSteal)
	r, err := Run(t.Context(), Options{Config: flags("target.path", "pod/shop", "profile", "team/base"), Store: s.open})
	if err != nil {
		t.Fatal(err)
	}
	if s.opened != 1 || s.closed != 1 {
		t.Errorf("opened %d times, closed %d times", s.opened, s.closed)
	}
	if got := r.Config.Origin("feature.network.incoming.mode"); got.Kind != origin.Profile || got.Adjustment != 1 {
		t.Errorf("the mode comes from %v", got)
	}
	if r.Config.Target.Namespace != "team" || r.Profile.Ref.Name != "base" || len(r.Report.Steps) != 1 {
		t.Errorf("resolved %+v", r)
	}

	// The profile's steal needs a target; the error says that the profile had a part in it.
	_, err = Run(t.Context(), Options{Config: flags("profile", "team/base"), Store: s.open})
	profiled, ok := errors.AsType[*ProfiledError](err)
	if !ok || !strings.Contains(err.Error(), "can only be stolen from a target") || !strings.Contains(profiled.Hint(), "mirrordprofile base -n team") {
		t.Errorf("a steal without a target: %v", err)
	}
	if _, ok := errors.AsType[*config.Problems](err); !ok {
		t.Errorf("the problems are not in %v", err)
	}
	if _, err = Run(t.Context(), Options{Config: flags("profile", "team/base"), Store: s.open, TargetUndecided: true}); err != nil {
		t.Errorf("an undecided target: %v", err)
	}
}

func TestWarningsTellHowToSeeTheProfile(t *testing.T) {
	load := flags("target.path", "pod/shop", "profile", "base", "agent.ephemeral", "true", "agent.namespace", "x")
	for _, test := range []struct {
		store *fakeStore
		load  config.LoadOptions
		want  string
	}{
		{newStore(profile.Ref{Name: "base"}), load, "kubectl get mirrordclusterprofile base -o yaml"},
		{
			newStore(profile.Ref{Namespace: "team", Name: "base"}),
			flags("target.path", "pod/shop", "profile", "team/base", "agent.ephemeral", "true", "agent.namespace", "x"),
			"kubectl get mirrordprofile base -n team -o yaml",
		},
	} {
		r, err := Run(t.Context(), Options{Config: test.load, Store: test.store.open})
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Warnings) != 2 {
			t.Fatalf("warnings: %q", r.Warnings)
		}
		last := r.Warnings[1]
		if !strings.Contains(last, test.want) || !strings.Contains(last, "mirrord profile explain") {
			t.Errorf("the hint is %q", last)
		}
	}
	// Without warnings there is nothing to explain, and without a profile nothing to see.
	s := newStore(profile.Ref{Name: "base"}, v1alpha.OutgoingRemote, v1alpha.DNSRemote)
	if r, err := Run(t.Context(), Options{Config: flags("target.path", "pod/shop", "profile", "base"), Store: s.open}); err != nil || len(r.Warnings) != 0 {
		t.Errorf("%v, warnings %q", err, r.Warnings)
	}
	r, err := Run(t.Context(), Options{Config: flags("target.path", "pod/shop", "agent.ephemeral", "true", "agent.namespace", "x"), Store: s.open})
	if err != nil || len(r.Warnings) != 1 {
		t.Errorf("%v, warnings %q", err, r.Warnings)
	}
}

func TestRunErrors(t *testing.T) {
	s := newStore(profile.Ref{Name: "base"})
	_, err := Run(t.Context(), Options{Config: flags("profile", "a/b/c"), Store: s.open})
	malformed, ok := errors.AsType[*profile.MalformedRefError](err)
	if !ok || s.opened != 0 || !strings.HasPrefix(err.Error(), "--flag: profile: ") || malformed.Input != "a/b/c" {
		t.Errorf("a malformed reference: %v, opened %d", err, s.opened)
	}
	_, err = Run(t.Context(), Options{Config: flags("profile", "other"), Store: s.open})
	if _, ok := errors.AsType[*profile.NotFoundError](err); !ok || s.closed != s.opened {
		t.Errorf("a missing profile: %v, opened %d, closed %d", err, s.opened, s.closed)
	}
	broken := errors.New("no kubeconfig")
	_, err = Run(t.Context(), Options{Config: flags("profile", "base"), Store: func(*config.Config) (Store, error) { return nil, broken }})
	if !errors.Is(err, broken) {
		t.Errorf("a store that cannot be opened: %v", err)
	}
	_, err = Run(t.Context(), Options{Config: flags("target.path", "thing"), Store: s.open})
	if _, ok := errors.AsType[*config.Problems](err); !ok {
		t.Errorf("a wrong configuration: %v", err)
	}
}

// TestNoResidueOfAReplacedFilter holds that names of a filter that the profile removes do
// not stay behind in the DNS filter.
func TestNoResidueOfAReplacedFilter(t *testing.T) {
	for _, change := range []v1alpha.Change{v1alpha.OutgoingRemote, v1alpha.OutgoingOff} {
		s := newStore(profile.Ref{Name: "base"}, change)
		load := config.LoadOptions{Path: "-", Stdin: strings.NewReader(
			`{"profile": "base", "target": "pod/shop", "feature": {"network": {"outgoing": {"filter": {"local": ["internal.example"]}}}}}`)}
		r, err := Run(t.Context(), Options{Config: load, Store: s.open})
		if err != nil {
			t.Fatal(err)
		}
		if network := r.Config.Feature.Network; network.DNS.Filter != nil || network.Outgoing.Filter != nil {
			t.Errorf("%s: dns %+v, outgoing %+v", change, network.DNS.Filter, network.Outgoing.Filter)
		}
	}
}
