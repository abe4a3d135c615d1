//go:build amd64 || arm64

package intercept

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/mirrord-go/mirrord/internal/filemode"
	"github.com/mirrord-go/mirrord/internal/fsmount"
	"github.com/mirrord-go/mirrord/internal/targetfs"
)

// FileServer serves files of the target to children. Make one with [ServeFiles].
type FileServer struct {
	Files
	mount *fsmount.Mount

	mu   sync.Mutex
	said map[string]bool // texts, and kinds of texts
}

// maxSaid bounds the texts that a user reads: a program may meet a rule with any number of files.
const maxSaid = 100

// ServeFiles makes what [Options].Files needs. The context's values reach the target. An error says what this system lacks.
func ServeFiles(ctx context.Context, log *slog.Logger, f Files) (*FileServer, error) {
	mount, err := fsmount.Start(ctx, log, f.Holder, f.Target)
	if err != nil {
		return nil, fmt.Errorf("a file system for the target's files can't be made: %w", err)
	}
	return &FileServer{Files: f, mount: mount}, nil
}

// Close ends the serving. No child runs any more.
func (f *FileServer) Close() error { return f.mount.Close() }

// say tells the user a text once.
func (f *FileServer) say(text string) {
	if f.first(text) {
		f.tell(text)
	}
}

// sayFirst tells the user the first text of a kind.
func (f *FileServer) sayFirst(kind, text string) {
	if f.first(kind) {
		f.tell(text)
	}
}

// first says whether a text, or a kind of texts, is to be told. The last one is told with a word about those that are not.
func (f *FileServer) first(text string) bool {
	f.mu.Lock()
	said := f.said[text]
	if said || len(f.said) == maxSaid {
		f.mu.Unlock()
		return false
	}
	if f.said == nil {
		f.said = make(map[string]bool)
	}
	f.said[text] = true
	last := len(f.said) == maxSaid
	f.mu.Unlock()
	if last {
		f.tell("there is more to say about files of the target, and no more is said")
	}
	return true
}

func (f *FileServer) tell(text string) {
	if f.Notice != nil {
		f.Notice(text)
	}
}

// fileCall is a call about files, whose paths have been read.
type fileCall struct {
	*call
	files *FileServer
}

// cwd is the descriptor that stands for the working directory, as the register of a call that has none.
var cwd = uint64(0xffffffffffffff9c) // AT_FDCWD

// file serves a call about files, and lets any other go on.
func (c *call) file() {
	serve := fileCalls[c.n.Nr]
	if c.files == nil || serve == nil {
		c.pass()
		return
	}
	serve(fileCall{c, c.files})
}

// fileName is what a call names.
type fileName struct {
	place filemode.Place
	path  string // where it is
	asked string // the whole path before the mapping; empty when it began in a directory of the target
}

// name reads the path at addr, relative to the directory dirfd, and decides about it. Without ok the call has been answered: the path can't be
// read, or is empty, which is the kernel's.
func (c fileCall) name(dirfd, addr uint64, write bool) (n fileName, ok bool) {
	if addr == 0 {
		c.pass() // EFAULT, or as an empty one (Linux 6.11)
		return n, false
	}
	raw, err := readPath(c.tid(), addr)
	if err != nil {
		c.refuse(err)
		return n, false
	}
	if raw == "" {
		c.pass()
		return n, false
	}
	return c.judge(dirfd, raw, write)
}

// judge decides about a path. What is not the laptop's does not exist for programs outside of the session: their calls go on.
func (c fileCall) judge(dirfd uint64, raw string, write bool) (n fileName, ok bool) {
	n, ok = c.decide(dirfd, raw, write)
	if ok && n.place != filemode.Local && c.outside() {
		c.pass()
		return n, false
	}
	return n, ok
}

func (c fileCall) decide(dirfd uint64, raw string, write bool) (n fileName, ok bool) {
	if raw[0] != '/' {
		dir, target, err := c.directory(int(int32(dirfd)))
		switch {
		case err != nil:
			c.refuse(err)
			return n, false
		case target:
			return c.below(dir, raw, write), true
		case dir == "":
			c.pass() // no directory: the kernel knows the errno
			return n, false
		}
		raw = dir + "/" + raw
	}
	place, path := c.files.Rules.Decide(raw, write)
	if place.Remote() && !c.ownRoot() {
		place = filemode.Local
	}
	return fileName{place, slashed(path, raw), raw}, true
}

// slashed gives a path the slash at its end back, which asks for a directory.
func slashed(path, raw string) string {
	if strings.HasSuffix(raw, "/") && path != "/" {
		return path + "/."
	}
	return path
}

// below decides about a path relative to a directory of the target: it stays there, whatever the rules say of its name, unless they forbid it.
func (c fileCall) below(dir, raw string, write bool) fileName {
	path := filepath.Join(dir, raw)
	place, _ := c.files.Rules.Decide(path, write)
	if place == filemode.Local {
		place = filemode.ReadOnly
	}
	return fileName{place: place, path: slashed(path, raw)}
}

// directory is the path of a descriptor of the caller, or of its working directory; target says that it is one of the target. An empty one is
// no directory that has a path.
func (c fileCall) directory(fd int) (dir string, target bool, err error) {
	link := "/proc/" + strconv.Itoa(c.tid()) + "/cwd"
	if fd != unix.AT_FDCWD {
		if fd < 0 {
			return "", false, nil
		}
		link = "/proc/" + strconv.Itoa(c.tid()) + "/fd/" + strconv.Itoa(fd)
	}
	dir, err = os.Readlink(link)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return "", false, nil
	case err != nil:
		return "", false, err
	}
	if path, ok := c.files.mount.TargetPath(dir); ok {
		return path, true, nil
	}
	if !strings.HasPrefix(dir, "/") || strings.HasSuffix(dir, " (deleted)") {
		return "", false, nil
	}
	return dir, false, nil
}

// ownRoot says whether the caller's root directory is ours: paths below another are not the target's.
func (c fileCall) ownRoot() bool {
	root, err := os.Readlink("/proc/" + strconv.Itoa(c.tid()) + "/root")
	return err == nil && root == "/"
}

// at serves a call by where its file is. Local ones go on, at once; remote runs in a goroutine of its own, answers with what it returns.
func (c fileCall) at(n fileName, remote func(ctx context.Context) error) {
	switch n.place {
	case filemode.Local:
		c.pass()
	case filemode.NotFound:
		c.fail(unix.ENOENT)
	default:
		if !c.valid() {
			return // The path may have been another's.
		}
		c.spawn(func() { c.answer(remote(c.ctx)) })
	}
}

// errAnswered says that a call has been answered already.
var errAnswered = errors.New("answered")

func (c fileCall) answer(err error) {
	if errors.Is(err, errAnswered) {
		return
	}
	if e, ok := errors.AsType[*targetfs.Error](err); ok && e.Reason != "" {
		c.files.say(e.Path + ": " + e.Reason)
	}
	c.fail(targetfs.Errno(err))
}

// put stores an answer in the caller's memory.
func (c fileCall) put(addr uint64, b []byte) error {
	if !c.valid() {
		return errAnswered // nobody waits for it, and the memory may be another's
	}
	if err := writeMemory(c.tid(), addr, b); err != nil {
		return unix.EFAULT
	}
	return nil
}

// pathPiece is how much of a path is read at a time: most are shorter.
const pathPiece = 256

// readPath reads a path of the caller's memory. It does not touch the page behind its end.
func readPath(tid int, addr uint64) (string, error) {
	var path []byte
	page := uint64(os.Getpagesize())
	for len(path) <= targetfs.MaxPath {
		b := make([]byte, min(pathPiece, page-addr%page))
		if err := readMemory(tid, addr, b); err != nil {
			return "", err
		}
		if i := bytes.IndexByte(b, 0); i >= 0 {
			path = append(path, b[:i]...)
			if len(path) > targetfs.MaxPath {
				break
			}
			return string(path), nil
		}
		path = append(path, b...)
		addr += uint64(len(b))
	}
	return "", unix.ENAMETOOLONG
}

// umask is the caller's.
func (c fileCall) umask() uint32 {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(c.tid()) + "/status")
	if err != nil {
		return 0o77
	}
	_, rest, ok := bytes.Cut(b, []byte("\nUmask:\t"))
	if !ok {
		return 0o22
	}
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	mask, err := strconv.ParseUint(string(line), 8, 32)
	if err != nil {
		return 0o77
	}
	return uint32(mask)
}
