//go:build !linux

package httpsplit

// over says whether a connection that waits for its next request has ended. It does not block.
func (u *upstream) over() bool { return u.staleStream() }
