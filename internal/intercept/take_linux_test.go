//go:build amd64 || arm64

package intercept

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// blockingListener listens on loopback, as a socket of the child that blocks.
func blockingListener(t *testing.T) *socket {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	s := &socket{fd: fd, domain: unix.AF_INET, kind: unix.SOCK_STREAM, protocol: unix.IPPROTO_TCP}
	t.Cleanup(s.close)
	if err := errors.Join(
		unix.Bind(fd, sockaddr(netip.MustParseAddrPort("127.0.0.1:0"), unix.AF_INET)), unix.Listen(fd, 16),
	); err != nil {
		t.Fatal(err)
	}
	return s
}

// Of several who saw a connection at a blocking listener, all but one go on without: none waits in the kernel for the
// next, where neither a signal nor the end of its caller would reach it.
func TestTakeDoesNotBlock(t *testing.T) {
	t.Parallel()
	s, in := blockingListener(t), &incoming{}
	addr, err := s.localAddr()
	if err != nil {
		t.Fatal(err)
	}
	for range 50 {
		c, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Connect(c, sockaddr(addr, unix.AF_INET)); err != nil {
			t.Fatal(err)
		}
		// The connection is there when the client's last packet has come, which may be after its connect has returned.
		ready := []unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}}
		eventually(t, "a connection waits", func() bool { n, _ := unix.Poll(ready, 1000); return n == 1 })
		var taken atomic.Int32
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				fd, err := in.take(s)
				switch err {
				case nil:
					taken.Add(1)
					_ = unix.Close(fd)
				case unix.EAGAIN:
				default:
					t.Error(err)
				}
			})
		}
		all.Wait()
		_ = unix.Close(c)
		if taken.Load() != 1 {
			t.Fatalf("%d have the one connection", taken.Load())
		}
	}
	if s.nonblocking() {
		t.Error("the child's listener does not block any more")
	}
}

// What was accepted for somebody who is gone, and whose listener is gone too, does not stay open.
func TestStashExpires(t *testing.T) {
	t.Parallel()
	in := &incoming{}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	fd, err := unix.Dup(int(w.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	in.keep(1, fd)
	in.expire(time.Now())
	if got, ok := in.kept(1); !ok || got != fd {
		t.Fatalf("kept %d, %v", got, ok)
	}
	in.keep(1, fd)
	in.expire(time.Now().Add(peerKept + time.Second))
	if _, ok := in.kept(1); ok {
		t.Error("the connection is still kept")
	}
	if n, err := r.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("it is still open: %d, %v", n, err)
	}
}

// A flow is not added to a record that is about to be removed: the child would be connected to a relay that is gone.
func TestFlowOfRemovedRecord(t *testing.T) {
	t.Parallel()
	s := &supervisor{}
	u := &datagramSocket{supervisor: s, cookie: 1, flows: make(map[netip.AddrPort]*flow), behind: make(map[netip.AddrPort]netip.AddrPort)}
	s.udp.add(u)
	s.udp.mu.Lock() // the removal waits here
	removed := make(chan struct{})
	go func() { defer close(removed); u.dropIdle(time.Now()) }()
	eventually(t, "the record takes no flow any more", func() bool {
		u.mu.Lock()
		defer u.mu.Unlock()
		return u.done
	})
	if _, err := u.flow(netip.MustParseAddrPort("198.51.100.1:9"), netip.MustParseAddrPort("127.0.0.1:9"), false); err != errRemoved {
		t.Errorf("error %v, want %v", err, errRemoved)
	}
	s.udp.mu.Unlock()
	<-removed
}

// Only TCP ignores the address of a send; SCTP would connect to it.
func TestStreamsThatConnectBySending(t *testing.T) {
	t.Parallel()
	const sctp = 132
	name, _ := appendSockaddr(nil, netip.MustParseAddrPort("198.51.100.1:80"), unix.AF_INET)
	c := &call{supervisor: &supervisor{network: &fakeTarget{}, log: slog.New(slog.DiscardHandler)}}
	for protocol, want := range map[int]unix.Errno{unix.IPPROTO_TCP: 0, unix.IPPROTO_MPTCP: 0, sctp: unix.EPROTONOSUPPORT} {
		got, errno := c.addressed(&socket{domain: unix.AF_INET, kind: unix.SOCK_STREAM, protocol: protocol}, name, 0)
		if errno != want || got.local != (want == 0) {
			t.Errorf("protocol %d: %+v, %v, want %v", protocol, got, errno, want)
		}
	}
}

func TestOutOfResources(t *testing.T) {
	t.Parallel()
	for err, want := range map[error]bool{
		nil: false, unix.EMFILE: true, fmt.Errorf("socket: %w", unix.ENFILE): true, os.NewSyscallError("x", unix.ENOMEM): true, unix.EBADF: false,
	} {
		if got := outOfResources(err); got != want {
			t.Errorf("%v: %v", err, got)
		}
	}
}
