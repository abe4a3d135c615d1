package fsmount

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// The messages on the socket between us and the holder, which keeps the borders of messages. The holder's first one is empty and carries the
// descriptor of /dev/fuse, or is a text that says why there is none. After it: requests and answers.
const (
	// requestHead is the number of the request and the flags of open(2), eight bytes each; the name follows.
	requestHead = 16
	// answerSize is the number of the request and the errno, eight bytes each. The descriptor comes with it.
	answerSize = 16
	maxMessage = 4096 + requestHead
)

// Holder is the holder's process. It blocks until the socket, descriptor 3, is closed from the other side.
func Holder() error {
	const socket = 3
	unix.CloseOnExec(socket)
	mount, dev, err := makeMount()
	if err != nil {
		_ = unix.Sendmsg(socket, []byte(err.Error()), nil, nil, 0)
		return err
	}
	err = unix.Sendmsg(socket, nil, unix.UnixRights(dev), nil, 0)
	_ = unix.Close(dev) // or the mount would outlive who serves it
	if err != nil {
		return fmt.Errorf("sending the mount: %w", err)
	}
	h := &holder{socket: socket, mount: mount}
	return h.serve()
}

// makeMount makes a FUSE mount without a place in any tree. It needs CAP_SYS_ADMIN in the user namespace of its mount namespace.
func makeMount() (mount, dev int, err error) {
	// The kernel wants the device opened in the user namespace that mounts (fuse_fill_super).
	dev, err = unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, -1, fmt.Errorf("opening /dev/fuse: %w", err)
	}
	defer func() {
		if err != nil {
			_ = unix.Close(dev)
		}
	}()
	fs, err := unix.Fsopen("fuse", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, -1, fmt.Errorf("fsopen(2) of fuse (Linux 5.2): %w", err)
	}
	defer unix.Close(fs)
	options := [][2]string{
		{"source", "mirrord"},
		{"fd", strconv.Itoa(dev)},
		{"rootmode", "40000"},
		{"user_id", strconv.Itoa(os.Getuid())},
		{"group_id", strconv.Itoa(os.Getgid())},
	}
	for _, o := range options {
		if err := unix.FsconfigSetString(fs, o[0], o[1]); err != nil {
			return -1, -1, fmt.Errorf("fsconfig(2), %s: %w", o[0], err)
		}
	}
	// For programs that change their user. In a user namespace it would shut out all but those of that namespace, see fuse_allow_current_process.
	if ownNamespace() {
		if err := unix.FsconfigSetFlag(fs, "allow_other"); err != nil {
			return -1, -1, fmt.Errorf("fsconfig(2), allow_other: %w", err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, -1, fmt.Errorf("mounting: %w", err)
	}
	mount, err = unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV)
	if err != nil {
		return -1, -1, fmt.Errorf("fsmount(2): %w", err)
	}
	return mount, dev, nil
}

// ownNamespace says whether this process is in the user namespace that it was started from, as far as its map of users tells: the first one
// has all users.
func ownNamespace() bool { return os.Getenv(inNamespace) == "" }

// inNamespace is set for a holder that was given a user namespace.
const inNamespace = "MIRRORD_FILES_NAMESPACE"

type holder struct {
	socket, mount int
	sending       sync.Mutex
}

// serve opens files until the other side is gone. Opens that are under way then fail, since nobody serves the mount any more.
func (h *holder) serve() error {
	buf := make([]byte, maxMessage)
	for {
		n, _, _, _, err := unix.Recvmsg(h.socket, buf, nil, 0)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("receiving a request: %w", err)
		case n < requestHead:
			return nil // closed; there are no shorter requests
		}
		id := binary.NativeEndian.Uint64(buf)
		flags := binary.NativeEndian.Uint64(buf[8:])
		name := string(buf[requestHead:n])
		go h.open(id, int(flags), name)
	}
}

func (h *holder) open(id uint64, flags int, name string) {
	var errno unix.Errno
	var rights []byte
	fd, err := unix.Openat(h.mount, name, flags|unix.O_CLOEXEC, 0)
	if err == nil {
		defer unix.Close(fd)
		rights = unix.UnixRights(fd)
	} else if !errors.As(err, &errno) {
		errno = unix.EIO
	}
	answer := binary.NativeEndian.AppendUint64(make([]byte, 0, answerSize), id)
	answer = binary.NativeEndian.AppendUint64(answer, uint64(errno))
	h.sending.Lock()
	defer h.sending.Unlock()
	for unix.Sendmsg(h.socket, answer, rights, nil, 0) == unix.EINTR {
	}
}
