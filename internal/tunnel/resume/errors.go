package resume

import (
	"errors"
	"fmt"
	"time"
)

// VersionError says that the other side speaks another version of the protocol.
type VersionError struct{ Ours, Theirs int }

// Error names both versions.
func (e *VersionError) Error() string {
	return fmt.Sprintf("the other side speaks version %d of the resume protocol, this side version %d", e.Theirs, e.Ours)
}

// GraceError says that a connection has ended because no carrier came in time.
type GraceError struct {
	// After is how long there was none.
	After time.Duration
	// Broke is why the last carrier broke, Last why the last attempt to replace it failed; nil when
	// there was no attempt.
	Broke, Last error
}

// Error gives the reasons.
func (e *GraceError) Error() string {
	s := fmt.Sprintf("no connection for %v; it broke: %v", e.After.Round(time.Second), e.Broke)
	if e.Last != nil {
		s += fmt.Sprintf("; the last attempt to make another: %v", e.Last)
	}
	return s
}

// Unwrap returns the reasons.
func (e *GraceError) Unwrap() []error {
	if e.Last == nil {
		return []error{e.Broke}
	}
	return []error{e.Broke, e.Last}
}

// GoneError says that a connection has ended because its other side is gone.
type GoneError struct {
	// Broke is why the last carrier broke, Err how it is known that there is nothing to come back to.
	Broke, Err error
}

// Error says how it is known.
func (e *GoneError) Error() string { return fmt.Sprintf("%v (%v)", e.Err, e.Broke) }

// Unwrap returns both reasons.
func (e *GoneError) Unwrap() []error { return []error{e.Broke, e.Err} }

var (
	// errUnknown is the server's answer to who wants to resume a connection that it does not have.
	errUnknown = errors.New("the other side does not know the connection any more")
	errSilent  = errors.New("silence on the connection")
	errStuck   = errors.New("the connection takes nothing any more")
	errAsleep  = errors.New("this machine was asleep")
	errEnded   = errors.New("the connection was closed without a word")
	errStale   = errors.New("replaced by a newer connection")
	errAhead   = fmt.Errorf("%w: the other side has more than it was sent", ErrMalformed)
	errProof   = errors.New("the other side does not prove that it knows the session")
)
