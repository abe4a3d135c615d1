//go:build !linux

package fsmount

import "errors"

// Holder fails: there is no FUSE mount without Linux.
func Holder() error { return errors.New("a holder of files needs Linux") }
