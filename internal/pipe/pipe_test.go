package pipe_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mirrord-go/mirrord/internal/pipe"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tcpPair returns the two ends of a loopback connection.
func tcpPair(t testing.TB) (client, server *net.TCPConn) {
	t.Helper()
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.DialTCP("tcp", nil, l.Addr().(*net.TCPAddr))
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	return c, s
}

// joined returns the outer ends of two connections that Join has put together.
func joined(t *testing.T, ctx context.Context) (a, b *net.TCPConn, result <-chan pipe.Result) {
	t.Helper()
	a, a2 := tcpPair(t)
	b, b2 := tcpPair(t)
	ch := make(chan pipe.Result, 1)
	go func() { ch <- pipe.Join(ctx, a2, b2) }()
	return a, b, ch
}

func wait(t *testing.T, ch <-chan pipe.Result) pipe.Result {
	t.Helper()
	select {
	case r := <-ch:
		return r
	case <-time.After(time.Minute):
		t.Fatal("Join did not return")
		return pipe.Result{}
	}
}

func TestJoinCarriesBothDirections(t *testing.T) {
	a, b, res := joined(t, t.Context())
	data := make([]byte, 3<<20)
	rng := rand.NewChaCha8([32]byte{1})
	_, _ = rng.Read(data)
	for _, dir := range []struct{ from, to *net.TCPConn }{{a, b}, {b, a}} {
		go func() {
			_, _ = dir.from.Write(data)
			_ = dir.from.CloseWrite()
		}()
		got, err := io.ReadAll(dir.to)
		if err != nil {
			t.Fatal(err)
		}
		if sha256.Sum256(got) != sha256.Sum256(data) {
			t.Fatalf("got %d bytes that differ from the %d sent", len(got), len(data))
		}
	}
	r := wait(t, res)
	if r.Err != nil || r.AToB != int64(len(data)) || r.BToA != int64(len(data)) {
		t.Fatalf("result %+v, want %d bytes each way and no error", r, len(data))
	}
}

func TestJoinKeepsHalfCloseApart(t *testing.T) {
	a, b, res := joined(t, t.Context())
	if err := a.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Fatalf("reading at b: %v, want EOF", err)
	}
	// The other direction still works.
	if _, err := b.Write([]byte("answer")); err != nil {
		t.Fatal(err)
	}
	_ = b.Close()
	got, err := io.ReadAll(a)
	if err != nil || !bytes.Equal(got, []byte("answer")) {
		t.Fatalf("read %q, %v at a", got, err)
	}
	if r := wait(t, res); r.Err != nil {
		t.Fatal(r.Err)
	}
}

func TestJoinPassesAReset(t *testing.T) {
	a, b, res := joined(t, t.Context())
	_ = a.SetLinger(0)
	_ = a.Close()
	if _, err := b.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("reading at b: %v, want ECONNRESET", err)
	}
	if r := wait(t, res); !errors.Is(r.Err, syscall.ECONNRESET) {
		t.Fatalf("result %v, want ECONNRESET", r.Err)
	}
}

func TestJoinEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	a, _, res := joined(t, ctx)
	cause := errors.New("session over")
	cancel(cause)
	if _, err := a.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("reading at a: %v, want ECONNRESET", err)
	}
	if r := wait(t, res); !errors.Is(r.Err, cause) {
		t.Fatalf("result %v, want %v", r.Err, cause)
	}
}

// heap is how many bytes are in use.
func heap() int64 {
	runtime.GC()
	runtime.GC() // the second empties the pool
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestIdleConnectionsHoldNoBuffer fails when each waiting direction keeps a copy buffer.
func TestIdleConnectionsHoldNoBuffer(t *testing.T) {
	const pairs = 200
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	before := heap()
	var results []<-chan pipe.Result
	for range pairs {
		a, b, res := joined(t, ctx)
		results = append(results, res)
		if _, err := a.Write([]byte("x")); err != nil { // each has been used once
			t.Fatal(err)
		}
		if _, err := b.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	if per := (heap() - before) / pairs; per > 32<<10 {
		t.Errorf("an idle pair holds %d bytes of heap, want well under one buffer", per)
	}
	cancel()
	for _, r := range results {
		wait(t, r)
	}
}

// growing hides everything but Read, as the tunnel's streams do.
type growing struct{ io.Reader }

func TestCopyWithoutReadiness(t *testing.T) {
	data := make([]byte, 1<<20)
	_, _ = rand.NewChaCha8([32]byte{2}).Read(data)
	var out bytes.Buffer
	n, err := pipe.Copy(&out, growing{bytes.NewReader(data)})
	if err != nil || n != int64(len(data)) || !bytes.Equal(out.Bytes(), data) {
		t.Fatalf("copied %d bytes, %v", n, err)
	}
}

// brokenWriter fails in the way that a lost connection does behind some wrappers.
type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, io.EOF }

func TestCopyTakesNoWriteErrorForTheEnd(t *testing.T) {
	if _, err := pipe.Copy(brokenWriter{}, bytes.NewReader([]byte("data"))); err == nil {
		t.Fatal("bytes that could not be written were taken for the end of data")
	}
}

// stuck is a destination that takes nothing until it is closed.
type stuck struct {
	net.Conn
	entered chan<- struct{}
	closed  <-chan struct{}
}

func (s stuck) Write([]byte) (int, error) {
	s.entered <- struct{}{}
	<-s.closed
	return 0, net.ErrClosed
}

// TestMessagesTakeSmallBuffers fails when a message on its way takes the buffer of a bulk transfer: of many
// connections that talk at once, many are there.
func TestMessagesTakeSmallBuffers(t *testing.T) {
	const copies = 200
	for name, wrap := range map[string]func(net.Conn) io.Reader{
		"socket": func(c net.Conn) io.Reader { return c },
		"stream": func(c net.Conn) io.Reader { return growing{c} },
	} {
		t.Run(name, func(t *testing.T) {
			entered, closed, done := make(chan struct{}), make(chan struct{}), make(chan struct{}, copies)
			var ends []*net.TCPConn
			for range copies {
				a, b := tcpPair(t)
				ends = append(ends, a)
				go func() {
					_, _ = pipe.Copy(stuck{entered: entered, closed: closed}, wrap(b))
					done <- struct{}{}
				}()
			}
			before := heap()
			for _, c := range ends {
				if _, err := c.Write([]byte("message")); err != nil {
					t.Fatal(err)
				}
				<-entered
			}
			if per := (heap() - before) / copies; per > 48<<10 {
				t.Errorf("a message on its way holds %d bytes of heap, want well under the buffer of a bulk transfer", per)
			}
			close(closed)
			for range copies {
				<-done
			}
		})
	}
}
