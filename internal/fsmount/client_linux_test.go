package fsmount

import (
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// A holder that is ended twice, as after a mount that could not be tried, does not take along what has its socket's number by then.
func TestClosedTwice(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[1])
	cmd := exec.Command("true")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	o := &opener{cmd: cmd, socket: pair[0], waiting: map[uint64]chan opened{}, done: make(chan struct{})}
	go o.read()
	o.close()
	if err := unix.Dup3(pair[1], pair[0], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	o.closeUnread()
	o.close()
	if _, err := unix.FcntlInt(uintptr(pair[0]), unix.F_GETFD, 0); err != nil {
		t.Errorf("another descriptor was closed: %v", err)
	}
}
