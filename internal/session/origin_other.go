//go:build !linux || (!amd64 && !arm64)

package session

import "syscall"

// watchOrigins does nothing: no process runs on these systems.
func watchOrigins() {}

// origin knows nothing.
func origin(syscall.Signal) (terminal, process bool) { return false, false }
