//go:build !unix

package pipe

import "syscall"

// readinessReader is not available: waiting needs a buffer here.
func readinessReader(syscall.Conn) ReadFunc { return nil }

// readinessWriter is not available: the connection's own Write does it.
func readinessWriter(syscall.Conn) func([]byte) (int, error) { return nil }
