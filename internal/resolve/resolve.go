// Package resolve is the one way from what a user wrote to the configuration that a session
// runs with: load, apply the profile, check. exec, verify-config and profile explain all go
// this way, so that they never disagree.
package resolve

import (
	"context"
	"errors"
	"fmt"

	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/profile"
)

// Options say what to resolve.
type Options struct {
	// Config is where the configuration comes from. A profile of the command line is an
	// override of the field "profile".
	Config config.LoadOptions
	// TargetUndecided says that a configuration without a target will get one later, as
	// in an IDE, and is not targetless.
	TargetUndecided bool
	// Store opens the store of profiles. It is called at most once, and only when the
	// configuration selects a profile, with what has been loaded by then; so no cluster is
	// needed without one.
	Store func(*config.Config) (Store, error)
}

// Store is a store of profiles that has to be closed.
type Store interface {
	profile.Store
	Close() error
}

// Resolved is a configuration that is ready to use.
type Resolved struct {
	Config *config.Config
	// Warnings are for the user, one line each; never nil.
	Warnings []string
	// Profile is nil without one.
	Profile *profile.Profile
	// Report says what the profile did; the zero value without one.
	Report profile.Report
}

// Run loads a configuration, applies the profile that it selects, and completes and checks
// it. It fails with [*config.Problems], with the errors of package profile, or with that of
// opening the store. It changes nothing in a cluster.
func Run(ctx context.Context, opts Options) (*Resolved, error) {
	cfg, loading, err := config.Load(ctx, opts.Config)
	if err != nil {
		return nil, err
	}
	r := &Resolved{Config: cfg}
	if cfg.Profile != "" {
		if err := r.applyProfile(ctx, opts.Store); err != nil {
			return nil, err
		}
	}
	finalizing, err := config.Finalize(cfg, config.FinalizeOptions{TargetUndecided: opts.TargetUndecided})
	if err != nil {
		if r.Profile != nil {
			err = &ProfiledError{Profile: r.Profile, Err: err}
		}
		return nil, err
	}
	r.Warnings = r.warnings(append(loading, finalizing...))
	return r, nil
}

func (r *Resolved) applyProfile(ctx context.Context, open func(*config.Config) (Store, error)) (err error) {
	ref, err := profile.ParseRef(r.Config.Profile)
	if err != nil {
		return &SelectionError{Origin: r.Config.Origin("profile"), Err: err}
	}
	store, err := open(r.Config)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	if r.Profile, err = store.Get(ctx, ref); err != nil {
		return err
	}
	r.Report, err = profile.Apply(r.Config, r.Profile)
	return err
}

// warnings puts the warnings into lines, and when a profile had a part in the configuration
// says how to see what it did.
func (r *Resolved) warnings(warnings config.Warnings) []string {
	lines := warnings.Strings()
	if r.Profile != nil && len(lines) > 0 {
		lines = append(lines, inspect(r.Profile))
	}
	return lines
}

// inspect says how to see a profile and what it did.
func inspect(p *profile.Profile) string {
	see := fmt.Sprintf("%q", p.Ref.Kubectl())
	if p.Source != "" {
		see = "its manifest at " + p.Source
	}
	return fmt.Sprintf("the profile %q was applied before this check: see %s for the profile, and %q for each value and what set it",
		p.Ref, see, "mirrord profile explain")
}
