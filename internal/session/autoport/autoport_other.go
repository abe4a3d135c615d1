//go:build !linux

package autoport

import "net/netip"

// Chosen is not known where no session runs.
func Chosen(netip.AddrPort) (bool, error) { return false, nil }
