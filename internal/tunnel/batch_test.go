package tunnel

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mirrord-go/mirrord/internal/gather"
)

// counted is a carrier that counts the writes to it, and fails them when told to.
type counted struct {
	net.Conn
	writes atomic.Int64
	fail   atomic.Pointer[error]
}

func (c *counted) Write(b []byte) (int, error) {
	if err := c.fail.Load(); err != nil {
		return 0, *err
	}
	c.writes.Add(1)
	return c.Conn.Write(b)
}

// tunnels makes a session over two counted carriers, which hold nothing themselves.
func tunnels(t *testing.T) (client, server Session, up, down *counted) {
	t.Helper()
	a, err := NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	b, err := NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	x, y := net.Pipe()
	up, down = &counted{Conn: x}, &counted{Conn: y}
	done := make(chan error, 1)
	go func() {
		var err error
		server, err = Server(t.Context(), down, b, a.Fingerprint())
		done <- err
	}()
	client, err = Client(t.Context(), up, a, b.Fingerprint())
	if err := errors.Join(err, <-done); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = client.Close(), server.Close() })
	synctest.Wait() // the first pings
	up.writes.Store(0)
	down.writes.Store(0)
	return client, server, up, down
}

// Each write to a carrier wakes up a row of programs: a connection must not take more of
// them than it has round trips.
func TestFewWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server, up, down := tunnels(t)
		st, err := client.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := st.Write([]byte("open this")); err != nil {
			t.Fatal(err)
		}
		far, err := server.Accept()
		if err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 9)
		if _, err := io.ReadFull(far, buf); err != nil {
			t.Fatal(err)
		}
		if _, err := far.Write([]byte("opened")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(st, buf[:6]); err != nil {
			t.Fatal(err)
		}
		if u, d := up.writes.Load(), down.writes.Load(); u != 1 || d != 1 {
			t.Errorf("opening a stream and the first answer took %d and %d writes, want 1 and 1", u, d)
		}
	})
}

// What many streams write while the carrier is busy leaves together, and a large frame in one
// write, whatever the size of TLS records.
func TestWritesAreCollected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server, up, _ := tunnels(t)
		go func() {
			for {
				st, err := server.Accept()
				if err != nil {
					return
				}
				go func() { _, _ = io.Copy(io.Discard, st) }()
			}
		}()
		const streams = 50
		for range streams {
			st, err := client.Open(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := st.Write(make([]byte, 100)); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if n := up.writes.Load(); n > streams/2 {
			t.Errorf("%d streams took %d writes", streams, n)
		}
		st, err := client.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		up.writes.Store(0)
		if _, err := st.Write(make([]byte, 60<<10)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n := up.writes.Load(); n > 2 {
			t.Errorf("60 KiB took %d writes", n)
		}
	})
}

// A frame for which nobody seems to wait does not wait for ever.
func TestLoneFrame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server, _, _ := tunnels(t)
		began := time.Now()
		if _, err := client.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := server.Accept(); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took != lazyTime {
			t.Errorf("the peer saw the stream after %v, want %v", took, lazyTime)
		}
	})
}

func TestFailedWriteEndsTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, _, up, _ := tunnels(t)
		gone := errors.New("the cable is out")
		up.fail.Store(&gone)
		st, err := client.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = st.Write([]byte("x"))
		<-client.Done()
		if err := client.Err(); !errors.Is(err, gone) {
			t.Errorf("the session ended with %v, want %v", err, gone)
		}
	})
}

// A carrier that takes nothing holds up the writers, and does not hold up Close.
func TestStuckCarrier(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, y := net.Pipe()
		defer y.Close()
		a, err := NewIdentity()
		if err != nil {
			t.Fatal(err)
		}
		g := gather.New(x, false)
		b := newBatch(tlsStub(g, a), g)
		written := make(chan int)
		go func() {
			total := 0
			for {
				n, err := b.Write(make([]byte, 1000))
				total += n
				if err != nil {
					written <- total
					return
				}
			}
		}()
		synctest.Wait()
		began := time.Now()
		_ = b.Close()
		if took := time.Since(began); took != 0 {
			t.Errorf("Close took %v", took)
		}
		if total := <-written; total > 3*maxBatch {
			t.Errorf("%d bytes were taken, which nobody read", total)
		}
	})
}

// tlsStub is a connection whose handshake waits for ever, as does its first write.
func tlsStub(g net.Conn, id *Identity) *tls.Conn {
	return tls.Client(g, id.tlsConfig(id.Fingerprint()))
}

// A client that closes one connection and makes the next says both at once; an answer that
// ends with its connection does not wait.
func TestEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server, up, _ := tunnels(t)
		pair := func() (near, far Stream) {
			t.Helper()
			near, err := client.Open(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := near.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if far, err = server.Accept(); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(far, make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			return near, far
		}
		// ends closes a, and returns how long b waits for that.
		ends := func(a, b Stream) time.Duration {
			t.Helper()
			began := time.Now()
			if err := a.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if _, err := b.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
				t.Fatalf("the other side read %v", err)
			}
			return time.Since(began)
		}
		near, far := pair()
		if took := ends(far, near); took != 0 {
			t.Errorf("the first end, of the side that accepted, took %v", took)
		}
		if took := ends(near, far); took != lazyTime {
			t.Errorf("the other end took %v", took)
		}
		near, _ = pair()
		synctest.Wait()
		up.writes.Store(0)
		_ = near.Close()
		pair()
		if n := up.writes.Load(); n != 1 {
			t.Errorf("the end of a stream and the next one took %d writes", n)
		}
	})
}

// What is remembered of streams goes with them.
func TestEndsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server, _, _ := tunnels(t)
		for i := range 20 {
			near, err := client.Open(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			far, err := server.Accept()
			if err != nil {
				t.Fatal(err)
			}
			for _, end := range [][]func() error{
				{near.CloseWrite, far.CloseWrite, near.Close, far.Close},
				{near.Reset, near.CloseWrite, far.Close},
				{near.CloseWrite, near.Reset, far.Close},
				{far.Reset, near.Close},
			}[i%4] {
				_ = end()
				synctest.Wait()
			}
		}
		time.Sleep(time.Second)
		for _, s := range []Session{client, server} {
			b := s.(*mux).carrier
			b.mu.Lock()
			if n := len(b.patient); n > 0 {
				t.Errorf("%d streams are remembered", n)
			}
			b.mu.Unlock()
		}
	})
}

// What nobody waits for goes with what somebody waits for, and does not wait for ever.
func TestLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server, up, down := tunnels(t)
		near, err := client.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Later(near).Write([]byte("head")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n := up.writes.Load(); n != 0 {
			t.Errorf("it left at once, in %d writes", n)
		}
		if _, err := near.Write([]byte("body")); err != nil {
			t.Fatal(err)
		}
		far, err := server.Accept()
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 8)
		if _, err := io.ReadFull(far, b); err != nil || string(b) != "headbody" {
			t.Fatalf("read %q, %v", b, err)
		}
		if n := up.writes.Load(); n != 1 {
			t.Errorf("both took %d writes", n)
		}
		down.writes.Store(0)
		began := time.Now()
		if _, err := Later(far).Write([]byte("alone")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(near, b[:5]); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took != lazyTime {
			t.Errorf("alone, it took %v", took)
		}
		// The next one is waited for again.
		began = time.Now()
		if _, err := far.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(near, b[:1]); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("what is waited for took %v", took)
		}
		for _, s := range []Session{client, server} {
			m := s.(*mux).carrier
			m.mu.Lock()
			if n := len(m.patient); n > 0 {
				t.Errorf("%d streams are remembered", n)
			}
			m.mu.Unlock()
		}
	})
}
