package worker

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mirrord-go/mirrord/internal/agent/nodeapi"
	"github.com/mirrord-go/mirrord/internal/agent/target"
	"github.com/mirrord-go/mirrord/internal/grant"
	"github.com/mirrord-go/mirrord/internal/targetfs"
	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

// withSelf makes this test's own process the target.
func withSelf(c *Config) {
	withoutRights(c)
	c.Find = func(string) (*target.Process, error) { return target.Open("", os.Getpid()) }
}

// files opens a files stream of a client.
func (c *client) files(t *testing.T) *targetfs.Client {
	t.Helper()
	st := c.open(t)
	if err := wire.WriteFilesHeader(st); err != nil {
		t.Fatal(err)
	}
	fs := targetfs.NewClient(st)
	t.Cleanup(func() { _ = fs.Close() })
	return fs
}

// TestFiles shows that a client, changed or not, gets the files of its grant, and no other.
func TestFiles(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to look into a target's root")
	}
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"free", "fixed", "secret", "own"} {
		if err := os.WriteFile(at(name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("secret", at("link")); err != nil {
		t.Fatal(err)
	}
	w := share(t, withSelf)
	rules := []grant.FileRules{{Policy: "keys", NotFound: []string{"/SECRET$"}, Local: []string{"/own$"}, ReadOnly: []string{"/fixed$"}}}
	in := func(g grant.Grant) func(*Session) {
		return func(s *Session) {
			s.Grant, s.Pod = g, nodeapi.Pod{ContainerID: "c1"}
		}
	}
	ann := w.visit(t, "ann", in(grant.Grant{Features: &grant.Features{Incoming: grant.Off, Files: grant.FilesWrite}, Files: rules}))
	if !slices.Contains(ann.welcome.Can, wire.CanFiles) || ann.welcome.FilesProblem != "" {
		t.Errorf("the welcome is %+v", ann.welcome)
	}
	if diff := cmp.Diff([]wire.FileRules{wire.FileRules(rules[0])}, ann.welcome.FileRules); diff != "" {
		t.Error(diff)
	}
	fs := ann.files(t)
	ctx := t.Context()
	for name, want := range map[string]syscall.Errno{"free": 0, "fixed": 0, "secret": syscall.ENOENT, "own": syscall.ENOENT, "link": syscall.ENOENT, "none": syscall.ENOENT} {
		f, err := fs.Open(ctx, at(name), targetfs.Read, 0)
		if targetfs.Errno(err) != want {
			t.Errorf("reading %s: %v", name, err)
		}
		if err == nil {
			_ = f.Close()
		}
	}
	_, err := fs.Open(ctx, at("fixed"), targetfs.Write, 0)
	if e, ok := errors.AsType[*targetfs.Error](err); !ok || e.Errno != syscall.EACCES || !strings.Contains(e.Reason, `policy "keys" (fs.readOnly)`) {
		t.Errorf("writing what is read-only: %v", err)
	}
	ann.notice(t, `fixed is forbidden by policy "keys" (fs.readOnly)`)
	f, err := fs.Open(ctx, at("free"), targetfs.Read|targetfs.Write, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(ctx, []byte("x"), 0); err != nil {
		t.Error(err)
	}
	// A policy that comes later counts for what is open, too.
	spec := ann.spec
	spec.Grant.Files = append(spec.Grant.Files, grant.FileRules{Policy: "late", ReadOnly: []string{"/free$"}})
	w.register(t, spec)
	if _, err := f.WriteAt(ctx, []byte("x"), 0); targetfs.Errno(err) != syscall.EACCES {
		t.Errorf("writing what has become read-only: %v", err)
	}

	ben := w.visit(t, "ben", in(grant.Grant{Features: &grant.Features{Incoming: grant.Off, Files: grant.FilesRead, FilesWritten: []string{"/own$"}}}))
	fs = ben.files(t)
	for name, want := range map[string]syscall.Errno{"free": syscall.EACCES, "new": syscall.EACCES, "own": 0} {
		f, err := fs.Open(ctx, at(name), targetfs.Write|targetfs.Create, 0o600)
		if targetfs.Errno(err) != want {
			t.Errorf("writing %s: %v", name, err)
		}
		if err == nil {
			_ = f.Close()
		}
	}
	ben.notice(t, "feature.fs.mode is read")

	eve := w.visit(t, "eve", in(grant.Grant{Features: &grant.Features{Incoming: grant.Off}}))
	if !strings.Contains(eve.welcome.FilesProblem, "feature.fs.mode is local") {
		t.Errorf("the problem is %q", eve.welcome.FilesProblem)
	}
	if _, err := eve.files(t).Stat(ctx, at("free"), true); targetfs.Errno(err) != syscall.ESTALE {
		t.Errorf("without files: %v", err)
	}
	// A session without a grant, and streams until there are too many.
	dan := w.visit(t, "dan", in(grant.Grant{}))
	for i := range maxFilesStreams + 1 {
		_, err := dan.files(t).Stat(ctx, at("free"), true)
		if want := i == maxFilesStreams; (err != nil) != want {
			t.Errorf("stream %d: %v", i, err)
		}
	}
}
