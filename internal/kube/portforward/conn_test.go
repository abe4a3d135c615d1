package portforward

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/nettest"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// The library of the test's own server waits ten minutes in this function, whatever one does.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/moby/spdystream.(*Connection).shutdown"))
}

// node is the server's end: the SPDY implementation that kubelets and runtimes use. The
// two streams of a connection are given to serve, which owns them.
func node(t *testing.T, serve func(data, errs httpstream.Stream)) net.Conn {
	t.Helper()
	client, server := loopback(t)
	streams := make(chan httpstream.Stream, 2)
	conn, err := spdy.NewServerConnection(server, func(s httpstream.Stream, _ <-chan struct{}) error {
		streams <- s
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		var data, errs httpstream.Stream
		for range 2 {
			select {
			case s := <-streams:
				if got := s.Headers().Get("port"); got != "4242" {
					t.Errorf("port header = %q, want 4242", got)
				}
				if s.Headers().Get("streamType") == "data" {
					data = s
				} else {
					errs = s
				}
			case <-conn.CloseChan():
				return
			}
		}
		serve(data, errs)
		<-conn.CloseChan()
	}()
	t.Cleanup(func() {
		_ = client.Close()
		_ = conn.Close()
		_ = server.Close()
		<-done
	})
	return client
}

func loopback(t *testing.T) (client, server net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	client, err = net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return client, server
}

func open(t *testing.T, rwc io.ReadWriteCloser) *Conn {
	t.Helper()
	c, err := New(rwc, Addr{Namespace: "shop", Pod: "shop-1", Port: 4242})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestEcho(t *testing.T) {
	c := open(t, node(t, func(data, errs httpstream.Stream) {
		_ = errs.Close()
		_, _ = io.Copy(data, data)
		_ = data.Close()
	}))
	want := make([]byte, 8<<20)
	_, _ = rand.Read(want)
	go func() { _, _ = c.Write(want) }()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("what came back is not what was sent")
	}
}

func TestPodCloses(t *testing.T) {
	c := open(t, node(t, func(data, errs httpstream.Stream) {
		_ = errs.Close()
		_, _ = io.WriteString(data, "bye")
		_ = data.Close()
	}))
	got, err := io.ReadAll(c)
	if string(got) != "bye" || err != nil {
		t.Errorf("read %q, %v; want bye and the end", got, err)
	}
}

func TestNothingListens(t *testing.T) {
	c := open(t, node(t, func(data, errs httpstream.Stream) {
		_, _ = io.WriteString(errs, "dial tcp4 127.0.0.1:4242: connection refused")
		_ = errs.Close()
		_ = data.Close()
	}))
	_, err := c.Read(make([]byte, 1))
	var fe *ForwardError
	if !errors.As(err, &fe) || !strings.Contains(fe.Text, "refused") {
		t.Fatalf("Read = %v, want a ForwardError with the node's text", err)
	}
	if _, err := c.Write([]byte("x")); !errors.As(err, &fe) {
		t.Errorf("Write after the refusal = %v, want the same", err)
	}
}

func TestNetworkBreaks(t *testing.T) {
	client, server := loopback(t)
	c := open(t, client)
	_ = server.(*net.TCPConn).SetLinger(0)
	_ = server.Close()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, ErrLost) {
		t.Errorf("Read = %v, want ErrLost", err)
	}
}

// Close must not lose a last message, and must not wait for ever for a dead peer.
func TestCloseSendsWhatWasWritten(t *testing.T) {
	got := make(chan []byte, 1)
	c := open(t, node(t, func(data, _ httpstream.Stream) {
		b, _ := io.ReadAll(data)
		got <- b
	}))
	if _, err := c.Write([]byte("last words")); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if b := <-got; string(b) != "last words" {
		t.Errorf("the pod read %q", b)
	}
}

func TestCloseWithDeafPeer(t *testing.T) {
	client, server := loopback(t)
	defer func() { _ = server.Close() }()
	c := open(t, client)
	_ = c.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
	for {
		if _, err := c.Write(make([]byte, 64<<10)); err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("Write = %v, want a deadline", err)
			}
			break
		}
	}
	closed := make(chan error, 1)
	go func() { closed <- c.Close() }()
	select {
	case <-closed:
	case <-time.After(10 * closeGrace):
		t.Fatal("Close did not return")
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Read after Close = %v", err)
	}
}

// One write of the caller becomes one write on the wire.
func TestOneWritePerFrame(t *testing.T) {
	rec := &recorder{writes: make(chan []byte, 10), closed: make(chan struct{})}
	c := open(t, rec)
	if n := len(<-rec.writes); n == 0 || len(rec.writes) != 0 {
		t.Fatalf("the opening took more than one write")
	}
	for _, size := range []int{1, 1400, 16 << 10} {
		if _, err := c.Write(make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		if w := <-rec.writes; len(w) != headerSize+size {
			t.Errorf("writing %d bytes wrote %d, want %d", size, len(w), headerSize+size)
		}
	}
}

type recorder struct {
	writes chan []byte
	closed chan struct{}
}

func (r *recorder) Write(p []byte) (int, error) { r.writes <- bytes.Clone(p); return len(p), nil }
func (r *recorder) Read([]byte) (int, error)    { <-r.closed; return 0, io.EOF }
func (r *recorder) Close() error                { close(r.closed); return nil }

// TestNetConn runs the suite that every net.Conn should pass: deadlines, concurrent calls,
// ends of streams.
func TestNetConn(t *testing.T) {
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		far, near := loopback(t)
		client := node(t, func(data, errs httpstream.Stream) {
			_ = errs.Close()
			go func() {
				_, _ = io.Copy(data, near)
				_ = data.Close()
			}()
			_, _ = io.Copy(near, data)
			_ = near.(*net.TCPConn).CloseWrite()
		})
		c := open(t, client)
		return c, far, func() {
			_ = c.Close()
			_ = far.Close()
			_ = near.Close()
		}, nil
	})
}

func FuzzDecoder(f *testing.F) {
	hello, err := opening(80)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(hello)
	f.Add(append(appendHeader(nil, dataStream, 0, 2), "hi"...))
	f.Add(append(appendHeader(nil, errorStream, 1, 2), "no"...))
	f.Add(appendHeader(nil, dataStream, 1, 0))
	f.Add([]byte{0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 2}) // ping
	f.Add([]byte{0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 3, 0, 0, 0, 5})
	f.Add([]byte{0x80, 3, 0, 7, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, in []byte) {
		var data bytes.Buffer
		d := newDecoder(bytes.NewReader(in), func([]byte) {})
		if _, err := io.Copy(&data, d); err == nil {
			t.Error("reading ended without a reason")
		}
		if data.Len() > len(in) || d.errorText.Len() > maxErrorText {
			t.Errorf("%d bytes of input became %d of data and %d of error text", len(in), data.Len(), d.errorText.Len())
		}
	})
}
