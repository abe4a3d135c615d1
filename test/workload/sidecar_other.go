//go:build !linux

package main

import (
	"context"
	"errors"
	"io"
)

// sidecar needs the rules of a Linux pod.
func sidecar(context.Context, []string, io.Writer) error { return errors.ErrUnsupported }
