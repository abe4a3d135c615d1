package profile

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/mirrord-go/mirrord/api/profiles/v1alpha"
	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/config/origin"
)

// Report tells what a profile did to a configuration. The zero value is a session without
// a profile.
type Report struct {
	Ref Ref `json:"profile"`
	// Steps has one entry for each adjustment, in order.
	Steps []Step `json:"adjustments"`
	// Namespace is the target namespace that the profile filled in; empty when it was set
	// before, or when the profile is cluster-wide.
	Namespace string `json:"namespace,omitempty"`
}

// Step is what one adjustment did.
type Step struct {
	// Number counts the profile's adjustments from 1.
	Number  int            `json:"number"`
	Change  v1alpha.Change `json:"change"`
	Effects []Effect       `json:"effects"`
}

// Effect is one value that an adjustment set.
type Effect struct {
	// Path is the value's dotted path in a configuration file.
	Path string `json:"path"`
	// From is the value before the adjustment, To the one after it; they may be equal.
	From any `json:"from"`
	To   any `json:"to"`
	// FromOrigin is who had set the value before.
	FromOrigin origin.Origin `json:"from_origin"`
	// Superseded is the number of the later adjustment whose value holds instead; zero when
	// this one holds.
	Superseded int `json:"superseded,omitempty"`
}

// ChangesNothing reports whether the configuration is the same after the profile as before.
func (r Report) ChangesNothing() bool {
	if r.Namespace != "" {
		return false
	}
	before := map[string]any{}
	for _, step := range r.Steps {
		for _, effect := range step.Effects {
			if _, seen := before[effect.Path]; !seen {
				before[effect.Path] = effect.From
			}
			if effect.Superseded == 0 && !same(before[effect.Path], effect.To) {
				return false
			}
		}
	}
	return true
}

// same compares two values of one path; a list without entries is no list.
func same(a, b any) bool {
	if list, ok := a.([]string); ok {
		other, ok := b.([]string)
		return ok && slices.Equal(list, other)
	}
	return reflect.DeepEqual(a, b)
}

// Summary says in one line what the profile did, for progress output.
func (r Report) Summary() string {
	if r.Ref == (Ref{}) {
		return "no profile"
	}
	changes := make([]string, len(r.Steps))
	for i, step := range r.Steps {
		changes[i] = string(step.Change)
	}
	text := fmt.Sprintf("profile %q: %s", r.Ref, strings.Join(changes, ", "))
	switch {
	case len(r.Steps) == 0 && r.Namespace == "":
		return fmt.Sprintf("profile %q has no adjustments: it changes nothing", r.Ref)
	case len(r.Steps) == 0:
		text = fmt.Sprintf("profile %q has no adjustments", r.Ref)
	case r.ChangesNothing():
		return text + ": the configuration is so already, it changes nothing"
	}
	if r.Namespace != "" {
		text += fmt.Sprintf("; target namespace %q", r.Namespace)
	}
	return text
}

// The paths of the values that profiles set.
const (
	pathNamespace    = "target.namespace"
	pathIncomingMode = "feature.network.incoming.mode"
	pathDNSEnabled   = "feature.network.dns.enabled"
	pathDNSFilter    = "feature.network.dns.filter"
	pathTCP          = "feature.network.outgoing.tcp"
	pathUDP          = "feature.network.outgoing.udp"
	pathFilter       = "feature.network.outgoing.filter"
	pathUnixStreams  = "feature.network.outgoing.unix_streams"
)

// everySocket is the pattern with which a profile sends all Unix sockets to the target.
const everySocket = ".*"

// Apply changes cfg by the adjustments of p in their order, so that a later one wins over
// an earlier one and all win over what cfg had. A value that an adjustment sets has that
// adjustment as its origin afterwards, even if it is the value that it had before; all
// other values and origins stay.
//
// A namespaced profile gives its namespace to a target that has none, targetless sessions
// included, and fails with [*NamespaceConflictError] when the target has another. A profile
// of a newer version fails with [*UnknownFieldError] or [*UnknownValueError]. When Apply
// fails, cfg is as it was.
func Apply(cfg *config.Config, p *Profile) (Report, error) {
	if err := p.Check(); err != nil {
		return Report{}, err
	}
	if err := checkNamespace(cfg, p.Ref); err != nil {
		return Report{}, err
	}

	report := Report{Ref: p.Ref, Steps: make([]Step, 0, len(p.Adjustments))}
	if p.Ref.Namespace != "" && cfg.Target.Namespace == "" {
		cfg.Target.Namespace = p.Ref.Namespace
		cfg.SetOrigin(pathNamespace, origin.Origin{Kind: origin.Profile, Name: p.Ref.String()})
		report.Namespace = p.Ref.Namespace
	}
	for i, adjustment := range p.Adjustments {
		s := setter{cfg: cfg, origin: origin.Origin{Kind: origin.Profile, Name: p.Ref.String(), Adjustment: i + 1}}
		s.apply(adjustment.Change)
		report.add(Step{Number: i + 1, Change: adjustment.Change, Effects: s.effects})
	}
	return report, nil
}

func checkNamespace(cfg *config.Config, ref Ref) error {
	target := cfg.Target.Namespace
	if ref.Namespace == "" || target == "" || target == ref.Namespace {
		return nil
	}
	return &NamespaceConflictError{Ref: ref, Target: target, Origin: cfg.Origin(pathNamespace)}
}

// add appends a step and marks the effects of earlier steps that it supersedes.
func (r *Report) add(step Step) {
	for _, effect := range step.Effects {
		for i := range r.Steps {
			for j := range r.Steps[i].Effects {
				if earlier := &r.Steps[i].Effects[j]; earlier.Path == effect.Path {
					earlier.Superseded = step.Number
				}
			}
		}
	}
	r.Steps = append(r.Steps, step)
}

// setter sets values of a configuration on behalf of one adjustment.
type setter struct {
	cfg     *config.Config
	origin  origin.Origin
	effects []Effect
}

// apply sets exactly the values that the field comments of [v1alpha.FeatureAdjustment] name.
func (s *setter) apply(change v1alpha.Change) {
	network := &s.cfg.Feature.Network
	switch change {
	case v1alpha.IncomingMirror:
		set(s, pathIncomingMode, &network.Incoming.Mode, config.IncomingMirror)
	case v1alpha.IncomingSteal:
		set(s, pathIncomingMode, &network.Incoming.Mode, config.IncomingSteal)
	case v1alpha.IncomingOff:
		set(s, pathIncomingMode, &network.Incoming.Mode, config.IncomingOff)
	case v1alpha.DNSRemote:
		s.dns(true)
	case v1alpha.DNSOff:
		s.dns(false)
	case v1alpha.OutgoingRemote:
		s.outgoing(true, []string{everySocket})
	case v1alpha.OutgoingOff:
		s.outgoing(false, nil)
	}
}

func (s *setter) dns(enabled bool) {
	set(s, pathDNSEnabled, &s.cfg.Feature.Network.DNS.Enabled, enabled)
	s.clear(pathDNSFilter, &s.cfg.Feature.Network.DNS.Filter)
}

func (s *setter) outgoing(enabled bool, unixStreams []string) {
	outgoing := &s.cfg.Feature.Network.Outgoing
	set(s, pathTCP, &outgoing.TCP, enabled)
	set(s, pathUDP, &outgoing.UDP, enabled)
	s.clear(pathFilter, &outgoing.Filter)
	set(s, pathUnixStreams, &outgoing.UnixStreams, unixStreams)
}

// clear removes a filter, of which only the parts may have an origin.
func (s *setter) clear(path string, filter **config.Filter) {
	from := s.cfg.Origin(path)
	for _, part := range []string{".local", ".remote"} {
		if o := s.cfg.Origin(path + part); o.Kind > from.Kind {
			from = o
		}
	}
	set(s, path, filter, nil)
	s.effects[len(s.effects)-1].FromOrigin = from
}

func set[T any](s *setter, path string, value *T, to T) {
	s.effects = append(s.effects, Effect{Path: path, From: *value, To: to, FromOrigin: s.cfg.Origin(path)})
	*value = to
	s.cfg.SetOrigin(path, s.origin)
}
