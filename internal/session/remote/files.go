package remote

import (
	"context"
	"errors"
	"slices"
	"syscall"

	"github.com/mirrord-go/mirrord/internal/targetfs"
	"github.com/mirrord-go/mirrord/internal/tunnel"
	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

// FilesError says why the session has no files of the target.
type FilesError struct{ Reason string }

// Error gives the reason.
func (e *FilesError) Error() string {
	return "the target's files can't be used: " + e.Reason
}

// Unwrap returns EACCES.
func (e *FilesError) Unwrap() error { return syscall.EACCES }

// FilesProblem is nil when the agent gives the session files of the target; else it is a *[FilesError].
func (c *Client) FilesProblem() error {
	switch {
	case !slices.Contains(c.welcome.Can, wire.CanFiles):
		return &FilesError{"the agent (" + c.welcome.Agent + ") is older than this client, and does not know how"}
	case c.welcome.FilesProblem != "":
		return &FilesError{c.welcome.FilesProblem}
	}
	return nil
}

// Files returns the target's files; it is the same for all callers as long as its stream lives. It ends with the tunnel. It blocks until there is a stream, ctx ends, or the tunnel has ended. The error is a *[FilesError], or a
// *[LostError] when there is no tunnel.
func (c *Client) Files(ctx context.Context) (*targetfs.Client, error) {
	if err := c.FilesProblem(); err != nil {
		return nil, err
	}
	select {
	case c.filesTurn <- struct{}{}:
		defer func() { <-c.filesTurn }()
	case <-ctx.Done():
		return nil, c.lost(context.Cause(ctx))
	}
	if c.files != nil {
		select {
		case <-c.files.Done():
		default:
			return c.files, nil
		}
	}
	if c.ctx.Err() != nil {
		return nil, c.lost(nil)
	}
	st, err := c.sess.Open(ctx)
	if err != nil {
		return nil, c.lost(err)
	}
	if err := introduceFiles(ctx, st); err != nil {
		return nil, c.streamError(errors.Join(err, st.Reset()))
	}
	c.files = targetfs.NewClient(st)
	return c.files, nil
}

func introduceFiles(ctx context.Context, st tunnel.Stream) (err error) {
	defer boundBy(ctx, st)(&err)
	return wire.WriteFilesHeader(st)
}

// endFiles waits until nothing of the files is left. The tunnel has ended.
func (c *Client) endFiles() {
	c.filesTurn <- struct{}{}
	defer func() { <-c.filesTurn }()
	if c.files != nil {
		_ = c.files.Close()
	}
}
