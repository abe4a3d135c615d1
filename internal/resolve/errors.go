package resolve

import (
	"github.com/mirrord-go/mirrord/internal/config/origin"
	"github.com/mirrord-go/mirrord/internal/profile"
)

// SelectionError says that what selects a profile is no reference, and where it stands.
type SelectionError struct {
	Origin origin.Origin
	// Err is a [*profile.MalformedRefError].
	Err error
}

func (e *SelectionError) Error() string { return e.Origin.String() + ": profile: " + e.Err.Error() }

// Unwrap returns what is wrong with the reference.
func (e *SelectionError) Unwrap() error { return e.Err }

// ProfiledError is an error of a configuration that a profile had a part in.
type ProfiledError struct {
	Profile *profile.Profile
	// Err is a [*config.Problems].
	Err error
}

func (e *ProfiledError) Error() string { return e.Err.Error() }

// Unwrap returns the problems.
func (e *ProfiledError) Unwrap() error { return e.Err }

// Hint says how to see what the profile did.
func (e *ProfiledError) Hint() string { return inspect(e.Profile) }
