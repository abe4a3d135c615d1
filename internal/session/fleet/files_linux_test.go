package fleet_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mirrord-go/mirrord/internal/session/agenttest"
	"github.com/mirrord-go/mirrord/internal/session/fleet"
	"github.com/mirrord-go/mirrord/internal/session/remote"
	"github.com/mirrord-go/mirrord/internal/targetfs"
	"github.com/mirrord-go/mirrord/internal/targetfs/dirfs"
	"github.com/mirrord-go/mirrord/internal/tunnel"
	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

// filePod is an agent whose target has one folder, with a file that has the pod's name.
func filePod(t *testing.T, name string) *pod {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "name"), []byte(name), 0o600); err != nil {
		t.Fatal(err)
	}
	p := &pod{}
	sess, agent := agenttest.New(t, agenttest.Script{
		Welcome: wire.Welcome{Can: []string{wire.CanFiles}},
		Files: func(st tunnel.Stream) {
			_ = targetfs.Serve(context.Background(), st, &dirfs.FS{Root: dir})
		},
	})
	c, err := remote.Start(t.Context(), quiet(), sess, remote.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close("") })
	p.agent, p.Member = agent, fleet.Member{Name: name, Client: c}
	return p
}

// TestFiles: files come from the first pod; when that goes, open ones fail and others come from the next.
func TestFiles(t *testing.T) {
	f := fleet.New(quiet(), fleet.Options{Patience: 50 * time.Millisecond})
	a, b := filePod(t, "a"), filePod(t, "b")
	f.Join(t.Context(), a.Member)
	f.Join(t.Context(), b.Member)
	if err := f.FilesProblem(t.Context()); err != nil {
		t.Fatal(err)
	}
	fs := f.Files()
	ctx := t.Context()
	read := func() string {
		file, err := fs.Open(ctx, "/name", targetfs.Read, 0)
		if err != nil {
			return err.Error()
		}
		defer file.Close()
		buf := make([]byte, 10)
		n, err := file.ReadAt(ctx, buf, 0)
		if err != nil {
			return err.Error()
		}
		return string(buf[:n])
	}
	if got := read(); got != "a" {
		t.Errorf("read %q", got)
	}
	if err := fs.Mkdir(ctx, "/d", 0o700); err != nil {
		t.Error(err)
	}
	if err := fs.Mkdir(ctx, "/d", 0o700); targetfs.Errno(err) != syscall.EEXIST {
		t.Errorf("%v", err)
	}
	open, err := fs.Open(ctx, "/name", targetfs.Read|targetfs.Write, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	a.agent.Kill()
	<-a.Client.Done()
	if got := read(); got != "b" {
		t.Errorf("after a went, read %q", got)
	}
	if _, err := open.Stat(ctx); targetfs.Errno(err) != syscall.ESTALE {
		t.Errorf("what was open there: %v", err)
	}
	b.agent.Kill()
	<-b.Client.Done()
	if _, err := fs.Stat(ctx, "/name", true); targetfs.Errno(err) != syscall.EIO {
		t.Errorf("without a pod: %v", err)
	}
	if err := fs.Remove(ctx, "/name", false); targetfs.Errno(err) != syscall.EIO {
		t.Errorf("without a pod: %v", err)
	}
}

// TestNoFiles: an agent that has none says why.
func TestNoFiles(t *testing.T) {
	for want, w := range map[string]wire.Welcome{
		"older than this client": {}, "no target": {Can: []string{wire.CanFiles}, FilesProblem: "no target"},
	} {
		sess, _ := agenttest.New(t, agenttest.Script{Welcome: w})
		c, err := remote.Start(t.Context(), quiet(), sess, remote.Options{})
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Files(t.Context())
		if _, ok := errors.AsType[*remote.FilesError](err); !ok || !strings.Contains(err.Error(), want) || targetfs.Errno(err) != syscall.EACCES {
			t.Errorf("%v, not %s", err, want)
		}
		_ = c.Close("")
	}
}
