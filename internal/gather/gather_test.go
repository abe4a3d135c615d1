package gather

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"

	"golang.org/x/net/nettest"
)

// recorder keeps what is written, call by call.
type recorder struct {
	net.Conn
	in     io.Reader
	reads  int
	writes [][]byte
	err    error
}

func (r *recorder) Read(p []byte) (int, error) {
	r.reads++
	return r.in.Read(p)
}

func (r *recorder) Write(p []byte) (int, error) {
	if r.err != nil {
		return len(p) / 2, r.err
	}
	r.writes = append(r.writes, bytes.Clone(p))
	return len(p), nil
}

func TestHeldWritesAreOne(t *testing.T) {
	r := &recorder{}
	c := New(r, false)
	write := func(s string) {
		t.Helper()
		if n, err := io.WriteString(c, s); n != len(s) || err != nil {
			t.Fatalf("writing %q: %d, %v", s, n, err)
		}
	}
	release := func() {
		t.Helper()
		if err := c.Release(); err != nil {
			t.Fatal(err)
		}
	}
	write("a")
	c.Hold()
	write("b")
	write("c")
	if len(r.writes) != 1 {
		t.Fatalf("%q was written before its release", r.writes)
	}
	release()
	c.Hold()
	release()
	write("d")
	if got := string(bytes.Join(r.writes, []byte("|"))); got != "a|bc|d" {
		t.Errorf("wrote %s, want a|bc|d", got)
	}
}

func TestFailedReleaseIsFinal(t *testing.T) {
	gone := errors.New("gone")
	r := &recorder{err: gone}
	c := New(r, false)
	c.Hold()
	_, _ = c.Write([]byte("lost"))
	if err := c.Release(); !errors.Is(err, gone) {
		t.Fatalf("Release: %v", err)
	}
	r.err = nil
	if _, err := c.Write([]byte("behind a gap")); !errors.Is(err, gone) {
		t.Errorf("Write after it: %v", err)
	}
	c.Hold()
	if err := c.Release(); !errors.Is(err, gone) {
		t.Errorf("Release after it: %v", err)
	}
}

func TestReadAhead(t *testing.T) {
	r := &recorder{in: bytes.NewReader(make([]byte, 100<<10))}
	c := New(r, true)
	for range 100 {
		if _, err := io.ReadFull(c, make([]byte, 1<<10)); err != nil {
			t.Fatal(err)
		}
	}
	if r.reads != 1 {
		t.Errorf("%d reads", r.reads)
	}
}

func TestNetConn(t *testing.T) {
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, nil, nil, err
		}
		defer l.Close()
		if c1, err = net.Dial("tcp", l.Addr().String()); err != nil {
			return nil, nil, nil, err
		}
		if c2, err = l.Accept(); err != nil {
			return nil, nil, nil, err
		}
		return New(c1, true), c2, func() { _, _ = c1.Close(), c2.Close() }, nil
	})
}
