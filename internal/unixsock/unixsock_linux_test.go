package unixsock

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair is a connected pair of sockets of a network ("unix", "unixpacket").
func pair(t *testing.T, network string) (a, b *net.UnixConn) {
	t.Helper()
	addr := &net.UnixAddr{Net: network, Name: filepath.Join(t.TempDir(), "s")}
	l, err := net.ListenUnix(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.DialUnix(network, nil, addr); err != nil {
		t.Fatal(err)
	}
	if b, err = l.AcceptUnix(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*net.UnixConn{a, b} {
		t.Cleanup(func() { _ = c.Close() })
		_ = c.SetDeadline(time.Now().Add(time.Minute))
	}
	return a, b
}

// joined are the outer ends of two joins with a stream between them, and how these end.
func joined(t *testing.T, ctx context.Context, typ wire.UnixType) (near, far *net.UnixConn, done func() [2]error) {
	t.Helper()
	network := map[wire.UnixType]string{wire.UnixStream: "unix", wire.UnixSeqpacket: "unixpacket"}[typ]
	near, n := pair(t, network)
	far, f := pair(t, network)
	s1, s2 := pair(t, "unix")
	errs := make(chan [2]error, 2)
	go func() { errs <- [2]error{0: Join(ctx, n, s1, typ)} }()
	go func() { errs <- [2]error{1: Join(ctx, f, s2, typ)} }()
	return near, far, func() [2]error {
		a, b := <-errs, <-errs
		return [2]error{errors.Join(a[0], b[0]), errors.Join(a[1], b[1])}
	}
}

func TestMessagesKeepTheirBounds(t *testing.T) {
	near, far, done := joined(t, t.Context(), wire.UnixSeqpacket)
	buf := make([]byte, 1<<19)
	messages := [][]byte{[]byte("a"), bytes.Repeat([]byte("b"), 100_000), []byte("ccc")}
	for _, dir := range [][2]*net.UnixConn{{near, far}, {far, near}} {
		for _, m := range messages {
			if _, err := dir[0].Write(m); err != nil {
				t.Fatal(err)
			}
		}
		for _, m := range messages {
			if n, err := dir[1].Read(buf); err != nil || !bytes.Equal(buf[:n], m) {
				t.Fatalf("%d bytes, %v, want %d", n, err, len(m))
			}
		}
	}
	_ = near.CloseWrite()
	if n, err := far.Read(buf); n != 0 || err != nil && !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %d bytes, %v", n, err)
	}
	if _, err := far.Write([]byte("late")); err != nil {
		t.Fatal(err)
	}
	if n, err := near.Read(buf); err != nil || string(buf[:n]) != "late" {
		t.Errorf("the other direction: %q, %v", buf[:n], err)
	}
	_ = far.Close()
	if errs := done(); errs[0] != nil || errs[1] != nil {
		t.Errorf("errors %v", errs)
	}
}

func TestBytes(t *testing.T) {
	near, far, done := joined(t, t.Context(), wire.UnixStream)
	go func() {
		_, _ = io.Copy(far, far)
		_ = far.CloseWrite()
	}()
	in := bytes.Repeat([]byte("0123456789"), 100_000)
	go func() {
		_, _ = near.Write(in)
		_ = near.CloseWrite()
	}()
	if out, err := io.ReadAll(near); err != nil || !bytes.Equal(out, in) {
		t.Errorf("%d bytes back, %v", len(out), err)
	}
	if errs := done(); errs[0] != nil || errs[1] != nil {
		t.Errorf("errors %v", errs)
	}
}

func TestTooLong(t *testing.T) {
	near, far, done := joined(t, t.Context(), wire.UnixSeqpacket)
	if err := near.SetWriteBuffer(1 << 20); err != nil {
		t.Fatal(err)
	}
	if _, err := near.Write(make([]byte, wire.MaxPacket+1)); err != nil {
		t.Skipf("this system sends no such message: %v", err)
	}
	if n, err := far.Read(make([]byte, 10)); n > 0 {
		t.Errorf("%d bytes of it arrived, %v", n, err)
	}
	_ = far.Close()
	if errs := done(); !errors.Is(errs[0], errTooLong) {
		t.Errorf("errors %v", errs)
	}
}

func TestContextEnds(t *testing.T) {
	for _, typ := range []wire.UnixType{wire.UnixStream, wire.UnixSeqpacket} {
		ctx, cancel := context.WithCancel(t.Context())
		near, _, done := joined(t, ctx, typ)
		cancel()
		if errs := done(); errs[0] == nil && errs[1] == nil {
			t.Error("no error")
		}
		if _, err := near.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error("the socket is open")
		}
	}
}
