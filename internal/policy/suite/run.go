package suite

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	k8sjson "sigs.k8s.io/json"

	sessions "github.com/mirrord-go/mirrord/api/sessions/v1alpha"
	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/features"
	"github.com/mirrord-go/mirrord/internal/grant"
	"github.com/mirrord-go/mirrord/internal/policy"
	"github.com/mirrord-go/mirrord/internal/policy/dirstore"
	"github.com/mirrord-go/mirrord/internal/profile"
	profiledir "github.com/mirrord-go/mirrord/internal/profile/dirstore"
	"github.com/mirrord-go/mirrord/internal/resolve"
)

// Result is what came of a case.
type Result struct {
	Name string `json:"name"`
	Line int    `json:"line"`
	// Failures are what is not as expected, in one or more lines each; none when the case
	// passes.
	Failures []string `json:"failures"`
}

// Passed reports whether all is as expected.
func (r Result) Passed() bool { return len(r.Failures) == 0 }

// Run decides about all cases. It fails when policies or profiles can't be read.
func (s *Suite) Run(ctx context.Context) ([]Result, error) {
	policies, err := dirstore.Load(ctx, s.at(s.Policies))
	if err != nil {
		return nil, err
	}
	var store profile.Store
	if s.Profiles != "" {
		dir := profiledir.New(s.at(s.Profiles))
		if _, err := dir.List(ctx, ""); err != nil {
			return nil, err
		}
		store = dir
	}
	results := make([]Result, 0, len(s.Cases))
	for _, c := range s.Cases {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		r := runner{suite: s, store: store, policies: policies, c: c}
		r.run(ctx)
		results = append(results, Result{Name: c.Name, Line: c.Line, Failures: append([]string{}, r.failures...)})
	}
	return results, nil
}

// at is a path of the suite.
func (s *Suite) at(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(s.dir, path)
}

// runner runs one case.
type runner struct {
	suite    *Suite
	store    profile.Store
	policies []policy.Policy
	c        Case
	failures []string
}

func (r *runner) fail(format string, args ...any) {
	r.failures = append(r.failures, fmt.Sprintf(format, args...))
}

func (r *runner) run(ctx context.Context) {
	req, err := r.request(ctx)
	if err != nil {
		r.fail("%v", err)
		return
	}
	d := policy.Evaluate(r.policies, req)
	switch {
	case r.c.Expect == Allowed && !d.Allowed():
		r.fail("the session is to be allowed, and it is refused:\n%v", d.Err())
		return
	case r.c.Expect == Refused && d.Allowed():
		r.fail("the session is to be refused, and it is allowed; policies that bind it: %s", list(names(d.Binding)))
		return
	}
	if !d.Allowed() {
		r.reasons(d)
		return
	}
	enforcer, err := d.Grant.Compile()
	if err != nil {
		r.fail("%v", err)
		return
	}
	for i, connection := range r.c.Connections {
		r.connection(i, connection, enforcer)
	}
	for _, name := range slices.Sorted(maps.Keys(r.c.Variables)) {
		if want, got := r.c.Variables[name], enforcer.Variable(name); got != (want == Allowed) {
			r.fail("variables.%s: it is to be %s, and it is not", name, want)
		}
	}
}

// reasons compares who refuses with whom the case expects.
func (r *runner) reasons(d policy.Decision) {
	var by, codes []string
	for _, reason := range d.Reasons {
		codes = append(codes, string(reason.Code))
		if reason.Policy != nil {
			by = append(by, reason.Policy.String())
		}
	}
	if r.c.By != nil && !sameSet(r.c.By, by) {
		r.fail("it is to be refused by %s, and it is refused by %s:\n%v", list(r.c.By), list(by), d.Err())
	}
	if r.c.Codes != nil && !sameSet(r.c.Codes, codes) {
		r.fail("the codes are to be %s, and they are %s:\n%v", list(r.c.Codes), list(codes), d.Err())
	}
}

func (r *runner) connection(i int, c Connection, enforcer *grant.Enforcer) {
	err := enforcer.Dial(c.Protocol, c.addr, c.Names)
	at := fmt.Sprintf("connections[%d]", i)
	switch refusal, _ := errors.AsType[*grant.Refusal](err); {
	case c.Expect == Allowed && err != nil:
		r.fail("%s: it is to be allowed: %v", at, err)
	case c.Expect == Refused && err == nil:
		r.fail("%s: it is to be refused, and it is allowed", at)
	case refusal != nil && c.By != nil && !sameSet(c.By, refusal.Policies()):
		r.fail("%s: it is to be refused by %s: %v", at, list(c.By), err)
	}
}

// request is what a client would ask for.
func (r *runner) request(ctx context.Context) (policy.Request, error) {
	req := policy.Request{Profile: r.c.Profile}
	req.Target.Path, req.Target.Namespace = r.c.path, r.c.Namespace
	if r.c.Config != nil {
		resolved, err := r.resolve(ctx)
		if err != nil {
			return req, err
		}
		cfg := resolved.Config
		req.Features, req.Profile, req.Loaded = features.FromConfig(cfg), cfg.Profile, resolved.Profile
		req.Target.Path, req.Target.Namespace = cfg.Target.Path, cfg.Target.Namespace
		if req.Target.Namespace == "" {
			return req, errors.New("neither the case nor its configuration names a namespace")
		}
	} else {
		var err error
		if req.Features, err = decodeFeatures(r.c.Features); err != nil {
			return req, err
		}
		if ref, err := profile.ParseRef(req.Profile); req.Profile != "" && err == nil {
			req.Loaded, req.ProfileErr = r.profile(ctx, ref)
		}
	}
	req.Target.Objects = r.objects(req.Target.Path)
	return req, nil
}

func (r *runner) objects(path config.TargetPath) []policy.Object {
	var objects []policy.Object
	switch path.Kind {
	case config.Targetless:
	case config.Label:
		labels := maps.Clone(path.Labels)
		maps.Copy(labels, r.c.Labels)
		objects = append(objects, policy.Object{Kind: config.Pod, Labels: labels})
	default:
		objects = append(objects, policy.Object{Kind: path.Kind, Name: path.Name, Labels: r.c.Labels})
	}
	for _, o := range r.c.Owners {
		objects = append(objects, policy.Object{Kind: o.path.Kind, Name: o.path.Name, Labels: o.Labels})
	}
	return objects
}

func (r *runner) profile(ctx context.Context, ref profile.Ref) (*profile.Profile, error) {
	if r.store == nil {
		return nil, errors.New("the suite names no folder of profiles")
	}
	return r.store.Get(ctx, ref)
}

// resolve loads the configuration as exec does, with nothing of this machine's environment.
func (r *runner) resolve(ctx context.Context) (*resolve.Resolved, error) {
	load := config.LoadOptions{}
	if r.c.inline != nil {
		load.Path, load.Stdin = "-", bytes.NewReader(r.c.inline)
	} else {
		load.Path = r.suite.at(r.c.file)
	}
	for _, override := range []struct{ field, value string }{
		{"target.path", r.c.Target}, {"target.namespace", r.c.Namespace}, {"profile", r.c.Profile},
	} {
		if override.value != "" {
			load.Overrides = append(load.Overrides, config.Override{Field: override.field, Value: override.value, Flag: "the case"})
		}
	}
	return resolve.Run(ctx, resolve.Options{
		Config: load,
		Store: func(*config.Config) (resolve.Store, error) {
			if r.store == nil {
				return nil, errors.New("the configuration selects a profile, and the suite names no folder of profiles")
			}
			return openStore{r.store}, nil
		},
	})
}

// openStore is a store that needs no closing.
type openStore struct{ profile.Store }

func (openStore) Close() error { return nil }

// defaults are the features of a session without a configuration.
func defaults() (sessions.Features, error) {
	cfg, _, err := config.Load(context.Background(), config.LoadOptions{})
	if err != nil {
		return sessions.Features{}, err
	}
	return features.FromConfig(cfg), nil
}

// decodeFeatures puts what a case says over the defaults.
func decodeFeatures(text json.RawMessage) (sessions.Features, error) {
	f, err := defaults()
	if err != nil || text == nil {
		return f, err
	}
	strict, err := k8sjson.UnmarshalStrict(text, &f)
	return f, errors.Join(append(strict, err)...)
}

// features reports what is wrong with the features of a case.
func (p *parser) features(path string, text json.RawMessage) {
	f, err := defaults()
	if err != nil {
		p.fail(path, "%v", err)
		return
	}
	var value any
	if err := json.Unmarshal(text, &value); err != nil {
		p.fail(path, "%v", err)
		return
	}
	if !p.decode(path, value, &f) {
		return
	}
	if err := features.Check(f); err != nil {
		for line := range strings.SplitSeq(err.Error(), "\n") {
			field, message, _ := strings.Cut(line, ": ")
			p.fail(below(path, field), "%s", message)
		}
	}
}

func names(refs []policy.Ref) []string {
	all := make([]string, len(refs))
	for i, ref := range refs {
		all[i] = ref.String()
	}
	return all
}

func list(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	names = slices.Compact(slices.Sorted(slices.Values(names)))
	return strings.Join(names, ", ")
}

func sameSet(a, b []string) bool { return list(a) == list(b) }
