package fsmount

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// opener asks the holder for descriptors.
type opener struct {
	cmd    *exec.Cmd
	socket int

	sending sync.Mutex
	mu      sync.Mutex
	next    uint64
	waiting map[uint64]chan opened
	ended   bool
	done    chan struct{} // closed when the reading has ended
	closing sync.Once
}

type opened struct {
	fd    int
	errno unix.Errno
}

// startHolder starts the holder and returns the descriptor of /dev/fuse of its mount.
func startHolder(argv []string, namespace bool) (_ *opener, dev int, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, -1, fmt.Errorf("starting the holder of files: %w", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "holder")
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir, cmd.Env, cmd.ExtraFiles = "/", os.Environ(), []*os.File{theirs}
	// The terminal's signals are for the session, not for the holder.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if namespace {
		cmd.Env = append(cmd.Env, inNamespace+"=1")
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	err = cmd.Start()
	_ = theirs.Close()
	if err != nil {
		_ = unix.Close(pair[0])
		return nil, -1, fmt.Errorf("starting the holder of files: %w", err)
	}
	o := &opener{cmd: cmd, socket: pair[0], waiting: make(map[uint64]chan opened), done: make(chan struct{})}
	if dev, err = o.device(); err != nil {
		_ = unix.Close(o.socket)
		_ = cmd.Wait()
		return nil, -1, err
	}
	return o, dev, nil
}

// device receives the holder's first message.
func (o *opener) device() (int, error) {
	buf := make([]byte, maxMessage)
	n, fd, err := receive(o.socket, buf)
	switch {
	case err != nil:
		return -1, fmt.Errorf("the holder of files: %w", err)
	case fd >= 0:
		return fd, nil
	case n == 0:
		return -1, errors.New("the holder of files ended without a word")
	}
	return -1, errors.New(string(buf[:n]))
}

// receive receives one message and the descriptor that came with it, or -1.
func receive(socket int, buf []byte) (n, fd int, err error) {
	oob := make([]byte, unix.CmsgSpace(4))
	var oobn int
	for {
		n, oobn, _, _, err = unix.Recvmsg(socket, buf, oob, unix.MSG_CMSG_CLOEXEC)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil || oobn == 0 {
		return n, -1, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(messages) != 1 {
		return n, -1, err
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return n, -1, err
	}
	return n, fds[0], nil
}

// read hands out the holder's answers until its socket ends.
func (o *opener) read() {
	defer close(o.done)
	buf := make([]byte, maxMessage)
	for {
		n, fd, err := receive(o.socket, buf)
		if err != nil || n < answerSize {
			break
		}
		id, errno := binary.NativeEndian.Uint64(buf), unix.Errno(binary.NativeEndian.Uint64(buf[8:]))
		if fd < 0 && errno == 0 {
			errno = unix.EMFILE // there was no room in our table for it
		}
		o.mu.Lock()
		reply := o.waiting[id]
		delete(o.waiting, id)
		o.mu.Unlock()
		if reply != nil {
			reply <- opened{fd, errno}
		} else if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ended = true
	for _, reply := range o.waiting {
		reply <- opened{-1, unix.EIO}
	}
	o.waiting = nil
}

// open opens a name in the mount's root. What the holder opens after the end of ctx is closed.
func (o *opener) open(ctx context.Context, name string, flags int) (int, error) {
	reply := make(chan opened, 1)
	o.mu.Lock()
	if o.ended {
		o.mu.Unlock()
		return -1, unix.EIO
	}
	o.next++
	id := o.next
	o.waiting[id] = reply
	o.mu.Unlock()

	b := binary.NativeEndian.AppendUint64(make([]byte, 0, requestHead+len(name)), id)
	b = binary.NativeEndian.AppendUint64(b, uint64(flags))
	b = append(b, name...)
	o.sending.Lock()
	err := error(unix.EINTR)
	for errors.Is(err, unix.EINTR) {
		err = unix.Sendmsg(o.socket, b, nil, nil, unix.MSG_NOSIGNAL)
	}
	o.sending.Unlock()
	if err != nil {
		o.mu.Lock()
		delete(o.waiting, id)
		o.mu.Unlock()
		return -1, unix.EIO
	}
	var got opened
	select {
	case got = <-reply:
	case <-ctx.Done():
		o.mu.Lock()
		_, waits := o.waiting[id]
		delete(o.waiting, id)
		o.mu.Unlock()
		if waits {
			return -1, context.Cause(ctx)
		}
		got = <-reply // It is there, or comes at once.
	}
	if got.errno != 0 {
		return -1, got.errno
	}
	return got.fd, nil
}

// close ends the holder, and with it the mount as soon as no file of it is open. It may be called again.
func (o *opener) close() {
	o.closing.Do(func() {
		_ = unix.Shutdown(o.socket, unix.SHUT_RDWR)
		<-o.done
		_ = unix.Close(o.socket)
		_ = o.cmd.Wait()
	})
}
