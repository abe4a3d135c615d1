package demo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/mirrord-go/mirrord/examples"
	"github.com/mirrord-go/mirrord/internal/demo/world"
)

// Run shows all adjustments, writing to out. It blocks for some seconds. It fails with
// [world.ErrNotAllowed] where the user may make no namespaces, with [ErrFailed] when an
// adjustment did not have its effect, and with [ErrTold] when something else failed that it has told.
func Run(ctx context.Context, out, errOut *os.File, o Options) error {
	dir, err := os.MkdirTemp("", "mirrord-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if o.ProfilesDir == "" {
		o.ProfilesDir = filepath.Join(dir, "profiles")
		if err := unpack(o.ProfilesDir); err != nil {
			return err
		}
	}
	cmd := exec.CommandContext(ctx, o.Self, InsideCommand, o.Agent, o.ProfilesDir, dir)
	cmd.Stdout, cmd.Stderr = out, errOut
	cmd.SysProcAttr = world.Sandbox()
	if err := cmd.Start(); err != nil {
		return world.Explain(fmt.Errorf("making a sandbox: %w", err))
	}
	err = cmd.Wait()
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("showing the adjustments: %w", context.Cause(ctx))
	}
	if ee, ok := errors.AsType[*exec.ExitError](err); ok {
		switch ee.ExitCode() {
		case exitError:
			return ErrTold
		case exitFailed:
			return ErrFailed
		case exitNotAllowed:
			return world.ErrNotAllowed
		}
	}
	return err
}

// unpack writes the documentation's profiles into a folder.
func unpack(dir string) error {
	sub, err := fs.Sub(examples.Profiles, "profiles")
	if err != nil {
		return err
	}
	return os.CopyFS(dir, sub)
}
