package gather

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"syscall"
	"testing"
	"time"

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

// counter counts the reads that bring something.
type counter struct {
	*net.TCPConn
	reads int
}

func (c *counter) SyscallConn() (syscall.RawConn, error) {
	raw, err := c.TCPConn.SyscallConn()
	return &rawCounter{raw, c}, err
}

type rawCounter struct {
	syscall.RawConn
	c *counter
}

func (r *rawCounter) Read(f func(uintptr) bool) error {
	return r.RawConn.Read(func(fd uintptr) bool {
		done := f(fd)
		if done {
			r.c.reads++
		}
		return done
	})
}

func TestReadAhead(t *testing.T) {
	a, b := loopback(t)
	if _, err := b.Write(make([]byte, 100<<10)); err != nil {
		t.Fatal(err)
	}
	_ = b.Close() // all of it is at the other end before the end of data
	counted := &counter{TCPConn: a.(*net.TCPConn)}
	c := New(counted, true)
	if n, err := c.Read(nil); n != 0 || err != nil {
		t.Fatalf("reading nothing: %d, %v", n, err)
	}
	n, err := io.Copy(io.Discard, io.LimitReader(struct{ io.Reader }{c}, 100<<10))
	if n != 100<<10 || err != nil {
		t.Fatalf("read %d, %v", n, err)
	}
	if counted.reads > 3 {
		t.Errorf("%d reads", counted.reads)
	}
	if c.buf != nil {
		t.Error("an idle connection has a buffer")
	}
}

func loopback(t *testing.T) (a, b net.Conn) {
	t.Helper()
	a, b, err := dial()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = a.Close(), b.Close() })
	return a, b
}

func dial() (a, b net.Conn, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	if a, err = net.Dial("tcp", l.Addr().String()); err != nil {
		return nil, nil, err
	}
	b, err = l.Accept()
	return a, b, err
}

func TestNetConn(t *testing.T) {
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		c1, c2, err = dial()
		if err != nil {
			return nil, nil, nil, err
		}
		return New(c1, true), c2, func() { _, _ = c1.Close(), c2.Close() }, nil
	})
}

// secured returns the ends of a TLS connection.
func secured(t testing.TB) (a, b *TLS, err error) {
	t.Helper()
	x, y, err := dial()
	if err != nil {
		return nil, nil, err
	}
	below := [2]*Conn{New(x, true), New(y, true)}
	config := &tls.Config{
		Certificates: []tls.Certificate{certificate(t)}, InsecureSkipVerify: true, SessionTicketsDisabled: true,
	}
	ends := [2]*tls.Conn{tls.Client(below[0], config), tls.Server(below[1], config)}
	done := make(chan error, 1)
	go func() { done <- ends[1].HandshakeContext(t.Context()) }()
	if err := errors.Join(ends[0].HandshakeContext(t.Context()), <-done); err != nil {
		return nil, nil, err
	}
	return Over(ends[0], below[0]), Over(ends[1], below[1]), nil
}

func certificate(t testing.TB) tls.Certificate {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private}
}

func TestTLSReadsManyRecords(t *testing.T) {
	a, b, err := secured(t)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = a.Close(), b.Close() }()
	sent := make([]byte, 8<<20)
	_, _ = rand.Read(sent)
	go func() { _, _ = a.Write(sent); _ = a.CloseWrite() }()
	var got []byte
	reads, p := 0, make([]byte, 128<<10)
	for {
		n, err := b.Read(p)
		got = append(got, p[:n]...)
		if err != nil {
			if !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
			break
		}
		reads++
	}
	if !bytes.Equal(got, sent) {
		t.Fatal("what came is not what was sent")
	}
	if records := len(sent) / maxRecord; reads > records*3/4 {
		t.Errorf("%d reads for %d records", reads, records)
	}
}

// Close ends a write that nobody takes, sooner than TLS would by itself, which waits for 5 seconds. A machine may stall for
// that long once.
func TestTLSClosesWhileWriting(t *testing.T) {
	var took time.Duration
	for range 3 {
		if took = closeWhileWriting(t); took < 4*time.Second {
			return
		}
	}
	t.Errorf("closing took %v", took)
}

func closeWhileWriting(t *testing.T) time.Duration {
	t.Helper()
	a, b, err := secured(t)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	wrote := make(chan error, 1)
	go func() { _, err := a.Write(make([]byte, 64<<20)); wrote <- err }()
	if _, err := b.Read(make([]byte, 1)); err != nil { // it writes
		t.Fatal(err)
	}
	began := time.Now()
	_ = a.Close()
	if err := <-wrote; err == nil {
		t.Error("it was written")
	}
	return time.Since(began)
}
