//go:build !linux

package proctree

import (
	"syscall"
	"time"
)

// Set is empty where no session runs.
type Set struct{}

// Below finds nothing.
func Below(int) Set { return Set{} }

// Orphans finds nothing.
func Orphans(string) Set { return Set{} }

// Marked finds nothing.
func Marked(string) Set { return Set{} }

// Len is 0.
func (Set) Len() int { return 0 }

// Signal does nothing.
func (Set) Signal(syscall.Signal) {}

// Wait says that all have ended.
func (Set) Wait(time.Time) bool { return true }

// Close does nothing.
func (Set) Close() {}
