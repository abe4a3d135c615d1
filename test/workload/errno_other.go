//go:build !linux

package main

import "syscall"

func errnoName(e syscall.Errno) string { return e.Error() }
