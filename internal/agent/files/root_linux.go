package files

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mirrord-go/mirrord/internal/agent/target"
	"github.com/mirrord-go/mirrord/internal/targetfs"
)

// Rules say what a session may do with files. Both methods are called from many goroutines.
type Rules interface {
	// Judge returns nil, or an error that wraps what the program is to see: ENOENT for a file that is hidden, EACCES for what the session may
	// not do. Name is an absolute path without "." and "..".
	Judge(name string, write bool) error
	// ByName says that files are judged by their names. Then no directory is renamed, with everything in it.
	ByName() bool
}

// Root is the root directory of a target's process. It implements [targetfs.FS].
type Root struct {
	rules   Rules
	dir     *os.File
	prefix  string // of real names: where the root is in its mount namespace, "" for its root
	id      identity
	threads *threads
}

var _ targetfs.FS = (*Root)(nil)

// Open looks at the process and returns its files. The caller closes them, after all files that were opened there. The error says what the agent
// lacks, if it lacks something.
func Open(p *target.Process, rules Rules) (*Root, error) {
	status, err := p.Status()
	if err != nil {
		return nil, err
	}
	id, err := parseStatus(status)
	if err != nil {
		return nil, err
	}
	users, err := p.Namespace("user")
	if err != nil {
		return nil, err
	}
	defer users.Close()
	if !sameUsers(users) {
		id.caps = 0 // They are worth nothing outside of that namespace.
	}
	dir, err := p.Root()
	if err != nil {
		return nil, err
	}
	r := &Root{rules: rules, dir: dir, id: id, threads: newThreads(id)}
	err = r.threads.do(context.Background(), func() error {
		where, err := readDescriptor(int(dir.Fd()))
		if err != nil {
			return fmt.Errorf("asking where the target's root is: %w", err)
		}
		r.prefix = strings.TrimSuffix(where, "/")
		fd, err := r.openPath(int(dir.Fd()), "/", unix.O_DIRECTORY)
		if err != nil {
			return fmt.Errorf("looking up the target's root (Linux 5.8 is needed): %w", err)
		}
		return unix.Close(fd)
	})
	if err != nil {
		_ = r.Close()
		return nil, err
	}
	return r, nil
}

// Close waits for calls under way.
func (r *Root) Close() error {
	r.threads.close()
	return r.dir.Close()
}

// readDescriptor returns the path of what a descriptor is open to, as the kernel knows it.
func readDescriptor(fd int) (string, error) {
	return os.Readlink(descriptor(fd))
}

// descriptor is the name by which what a descriptor is open to can be reached again, whatever is renamed.
func descriptor(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// resolution is how all names are looked up.
const resolution = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS

// openPath looks a name up below dir, and returns a descriptor for nothing but that (O_PATH).
func (r *Root) openPath(dir int, name string, flags uint64) (int, error) {
	return openat2(dir, name, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC | flags, Resolve: resolution})
}

// openat2 tries again when something was renamed meanwhile, openat2(2).
func openat2(dir int, name string, how *unix.OpenHow) (int, error) {
	fd, err := unix.Openat2(dir, name, how)
	for try := 0; try < 64 && (errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR)); try++ {
		fd, err = unix.Openat2(dir, name, how)
	}
	return fd, err
}

// place is something that was found.
type place struct {
	fd   int    // O_PATH
	name string // as it was asked for, clean
	real string // where it is
	st   unix.Stat_t
}

func (p *place) close() { _ = unix.Close(p.fd) }

func (p *place) kind() uint32 { return p.st.Mode & unix.S_IFMT }

// find looks a name up and judges it.
func (r *Root) find(name string, follow, write bool) (*place, error) {
	if err := valid(name); err != nil {
		return nil, err
	}
	if err := r.judge(name, write); err != nil {
		return nil, err
	}
	name = r.ofTarget(name, follow)
	var flags uint64
	if !follow {
		flags = unix.O_NOFOLLOW
	}
	fd, err := r.openPath(int(r.dir.Fd()), name, flags)
	if err != nil {
		return nil, err
	}
	p := &place{fd: fd, name: path.Clean(name)}
	if err := r.look(p, write); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// look judges what was found by its real name.
func (r *Root) look(p *place, write bool) error {
	if err := unix.Fstat(p.fd, &p.st); err != nil {
		return err
	}
	where, err := readDescriptor(p.fd)
	if err != nil {
		return err
	}
	p.real = r.inside(where)
	if err := r.judge(p.real, write); err != nil {
		return err
	}
	if deleted, ok := strings.CutSuffix(p.real, " (deleted)"); ok {
		if err := r.judge(deleted, write); err != nil {
			return err
		}
	}
	return special(p, write)
}

// inside is a real name as processes of the target see it.
func (r *Root) inside(where string) string {
	if rest, ok := strings.CutPrefix(where, r.prefix); ok && (rest == "" || rest[0] == '/') {
		where = rest
	}
	return path.Clean("/" + where)
}

// judge asks the rules about a name.
func (r *Root) judge(name string, write bool) error {
	name = path.Clean(name)
	if err := r.rules.Judge(name, write); err != nil {
		return err
	}
	if plain := withoutVersions(name); plain != name {
		return r.rules.Judge(plain, write)
	}
	return nil
}

// withoutVersions is the name under which users know a file of a ConfigMap or Secret: Kubernetes keeps it in a folder such as "..2026_11_22_01_02_03.123", with links "..data" to that
// and from the file's name to the one behind "..data".
func withoutVersions(name string) string {
	if !strings.Contains(name, "/..") {
		return name
	}
	var kept []string
	for part := range strings.SplitSeq(name, "/") {
		if !strings.HasPrefix(part, "..") {
			kept = append(kept, part)
		}
	}
	return path.Clean("/" + strings.Join(kept, "/"))
}

// valid says whether a name can be one of a file.
func valid(name string) error {
	if !strings.HasPrefix(name, "/") || strings.ContainsRune(name, 0) {
		return unix.EINVAL
	}
	return nil
}

// ofTarget replaces what would mean the agent's own process in a name by the target's.
func (r *Root) ofTarget(name string, follow bool) string {
	rest, ok := strings.CutPrefix(path.Clean(name), "/proc/")
	if !ok || strings.Contains(name, "..") {
		return name
	}
	first, below, deeper := strings.Cut(rest, "/")
	if !deeper && !follow {
		return name // the link itself
	}
	self := strconv.Itoa(r.id.pid)
	switch first {
	case "self":
		rest = self
	case "thread-self":
		rest = self + "/task/" + self
	case "mounts", "net": // links to self/mounts and self/net
		rest = self + "/" + first
	default:
		return name
	}
	if deeper {
		rest += "/" + below
	}
	if strings.HasSuffix(name, "/") {
		rest += "/"
	}
	return "/proc/" + rest
}

// parent looks up the directory that a name is in, for calls that make, move or remove the name, and judges the name.
func (r *Root) parent(name string) (dir *place, last string, err error) {
	if err := valid(name); err != nil {
		return nil, "", err
	}
	trimmed := strings.TrimRight(name, "/")
	at := strings.LastIndexByte(trimmed, '/')
	if at < 0 {
		return nil, "", unix.EBUSY // the root
	}
	folder, last := trimmed[:at+1], trimmed[at+1:]
	switch last {
	case ".":
		return nil, "", unix.EINVAL
	case "..":
		return nil, "", unix.ENOTEMPTY
	}
	if err := r.judge(trimmed, true); err != nil {
		return nil, "", err
	}
	fd, err := r.openPath(int(r.dir.Fd()), folder, unix.O_DIRECTORY)
	if err != nil {
		return nil, "", err
	}
	dir = &place{fd: fd, name: path.Clean(folder)}
	err = r.look(dir, false)
	if err == nil {
		err = r.judge(path.Join(dir.real, last), true)
	}
	if err == nil {
		err = writable(fd)
	}
	if err != nil {
		dir.close()
		return nil, "", err
	}
	return dir, last, nil
}
