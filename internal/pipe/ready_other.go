//go:build !unix

package pipe

import "syscall"

// readinessReader is not available: waiting needs a buffer here.
func readinessReader(syscall.Conn) ReadFunc { return nil }
