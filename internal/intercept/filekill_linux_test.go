//go:build amd64 || arm64

package intercept

import (
	"context"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/mirrord-go/mirrord/internal/filemode"
	"github.com/mirrord-go/mirrord/internal/targetfs"
)

// deadFS does not answer what is asked of files below /app/dead, and leaves a note of each in a folder.
type deadFS struct {
	targetfs.FS
	t     *testing.T
	notes string
}

func (d deadFS) wait(ctx context.Context, note string) error {
	if err := os.WriteFile(filepath.Join(d.notes, note), nil, 0o600); err != nil {
		d.t.Error(err)
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(time.Minute):
		d.t.Errorf("%s: nobody gave up", note)
		return os.ErrDeadlineExceeded
	}
}

func (d deadFS) Stat(ctx context.Context, name string, follow bool) (targetfs.Attr, error) {
	if path.Dir(name) == "/app/dead" {
		return targetfs.Attr{}, d.wait(ctx, "stat")
	}
	return d.FS.Stat(ctx, name, follow)
}

func (d deadFS) Open(ctx context.Context, name string, flags targetfs.OpenFlags, perm uint32) (targetfs.File, error) {
	switch {
	case path.Dir(name) != "/app/dead":
	case flags&targetfs.Write == 0:
		return nil, d.wait(ctx, "open")
	default:
		f, err := d.FS.Open(ctx, name, flags, perm)
		return deadFile{f, d}, err
	}
	return d.FS.Open(ctx, name, flags, perm)
}

type deadFile struct {
	targetfs.File
	fs deadFS
}

func (d deadFile) WriteAt(ctx context.Context, _ []byte, _ int64) (int, error) {
	return 0, d.fs.wait(ctx, "write")
}

// A process that waits for a file of a target which does not answer is killed at once, as its parent sees.
func TestFilesOfTheKilled(t *testing.T) {
	t.Parallel()
	notes := t.TempDir()
	mode := filemode.Settings{Mode: filemode.Read, ReadWrite: []string{"^/app/"}, Local: []string{regexp.QuoteMeta(notes)}}
	f := serveFilesOf(t, mode, func(fs targetfs.FS) targetfs.FS { return deadFS{fs, t, notes} })
	f.put(t, "/app/dead/file", "")
	const script = `
import os, signal, sys, time
name = '/app/dead/file'
for note, wait in (('stat', lambda: os.stat(name)), ('open', lambda: os.open(name, os.O_RDONLY)), ('write', lambda: os.write(os.open(name, os.O_WRONLY), b'x'))):
    child = os.fork()
    if child == 0:
        wait()
        os._exit(0)
    while not os.path.exists(sys.argv[1] + '/' + note):
        assert os.waitpid(child, os.WNOHANG) == (0, 0), note
        time.sleep(.01)
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0) == (child, signal.SIGKILL), note
print('done')
`
	if code, out := f.run(t, "python3", "-c", script, notes); out != "done\n" {
		t.Errorf("code %d, output %s", code, out)
	}
}
