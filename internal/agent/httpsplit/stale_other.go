//go:build !linux

package httpsplit

// stale says whether a connection that waits for its next request has ended. It does not block.
func (u *upstream) stale() bool { return u.staleStream() }
