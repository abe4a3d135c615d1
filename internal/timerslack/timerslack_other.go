//go:build !linux

package timerslack

// Widen does nothing: only Linux has a timer slack.
func Widen() error { return nil }

// Restore does nothing.
func Restore() error { return nil }
