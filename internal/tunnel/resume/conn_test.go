package resume

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/nettest"
)

// TestNetConn runs the suite that every net.Conn should pass, from both ends.
func TestNetConn(t *testing.T) {
	for name, swap := range map[string]bool{"client": false, "server": true} {
		for kind, pair := range map[string]func(testing.TB) func() (net.Conn, net.Conn, error){
			"pipe": func(testing.TB) func() (net.Conn, net.Conn, error) { return pipes },
			"tcp":  loopback,
		} {
			t.Run(name+" over "+kind, func(t *testing.T) {
				nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
					w := newWorld(t, Options{Window: minWindow})
					w.pair = pair(t)
					a, b := w.connect(Options{Window: minWindow})
					stop := func() { _ = a.Close(); _ = b.Close() }
					if swap {
						a, b = b, a
					}
					return a, b, stop, nil
				})
			})
		}
	}
}

func TestPauseIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const away = 90 * time.Second
		w := newWorld(t, Options{})
		var paused, resumed []time.Duration
		began := time.Now()
		broke := make(chan error, 9)
		client, server := w.connect(Options{
			Paused:  func(err error) { paused = append(paused, time.Since(began)); broke <- err },
			Resumed: func(after time.Duration) { resumed = append(resumed, after) },
		})
		w.setDown(errors.New("no network"))
		_ = w.last().Close()
		go func() { _, _ = client.Write([]byte("said in the pause")) }()
		b := make([]byte, 32)
		go func() { _, _ = client.Read(b) }() // notices
		if err := <-broke; err == nil {
			t.Error("the pause is told without a cause")
		}
		synctest.Wait()
		if since, _ := server.Paused(); since.IsZero() {
			// Nobody reads there yet: the server notices with its next call.
			go func() { time.Sleep(away); w.setDown(nil) }()
		} else {
			t.Error("the server noticed without reading")
		}
		n, err := server.Read(b)
		if err != nil || string(b[:n]) != "said in the pause" {
			t.Fatalf("read %q, %v", b[:n], err)
		}
		synctest.Wait()
		if len(paused) != 1 || len(resumed) != 1 {
			t.Fatalf("%d pauses and %d ends were told", len(paused), len(resumed))
		}
		if resumed[0] < away || resumed[0] > away+2*maxDelay {
			t.Errorf("the pause was %v long, the network was away for %v", resumed[0], away)
		}
	})
}

func TestGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const grace = time.Minute
		w := newWorld(t, Options{Grace: grace})
		client, server := w.connect(Options{Grace: grace})
		away := errors.New("no network")
		w.setDown(away)
		began := time.Now()
		_ = w.last().Close()
		errs := make(chan error, 2)
		for _, c := range []*Conn{client, server} {
			go func() {
				_, err := c.Read(make([]byte, 1))
				errs <- err
			}()
		}
		for range 2 {
			var g *GraceError
			if err := <-errs; !errors.As(err, &g) || g.Broke == nil {
				t.Errorf("reading ended with %v", err)
			}
		}
		if took := time.Since(began); took != grace {
			t.Errorf("it took %v", took)
		}
		if _, err := client.Write([]byte("x")); !errors.Is(err, away) {
			t.Errorf("writing afterwards: %v, want what the last attempt failed with", err)
		}
		if n := len(w.server.conns); n != 0 {
			t.Errorf("the server has %d connections", n)
		}
	})
}

// A break before Bind is the end: nothing proves yet who may resume.
func TestBreakBeforeBind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Options{})
		client, server := w.connectUnbound(Options{})
		_ = w.last().Close()
		for _, c := range []*Conn{client, server} {
			if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
				t.Errorf("reading: %v", err)
			}
			if err := c.Bind(secret); err == nil {
				t.Error("it was bound afterwards")
			}
		}
	})
}

// hole swallows what is written, after it was opened.
type hole struct {
	net.Conn
	open atomic.Bool
}

func (h *hole) Write(p []byte) (int, error) {
	if h.open.Load() {
		return len(p), nil
	}
	return h.Conn.Write(p)
}

// A carrier that just falls silent, as when a laptop changes its network, is replaced.
func TestSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Options{})
		var up, down *hole
		w.cut = func(n int, a, b net.Conn) (net.Conn, net.Conn) {
			if n > 0 {
				return a, b
			}
			up, down = &hole{Conn: a}, &hole{Conn: b}
			return up, down
		}
		var after time.Duration
		client, server := w.connect(Options{Resumed: func(d time.Duration) { after = d }})
		got := make(chan string, 2)
		for _, c := range []*Conn{client, server} {
			go func() {
				b := make([]byte, 16)
				n, _ := c.Read(b)
				got <- string(b[:n])
			}()
		}
		// For as long as both live, silence above means nothing.
		time.Sleep(time.Hour)
		if since, _ := client.Paused(); !since.IsZero() {
			t.Fatal("a carrier with heartbeats was taken for dead")
		}
		up.open.Store(true)
		down.open.Store(true)
		began := time.Now()
		for _, c := range []*Conn{client, server} {
			if _, err := c.Write([]byte("hello")); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			if s := <-got; s != "hello" {
				t.Errorf("read %q", s)
			}
		}
		if took, most := time.Since(began), (silentBeats+1)*defaultHeartbeat; took > most {
			t.Errorf("it took %v, want %v at most", took, most)
		}
		synctest.Wait()
		if after > time.Second {
			t.Errorf("the pause was %v long, though the network was there", after)
		}
	})
}

// A carrier that takes nothing any more is replaced, also when nobody reads.
func TestStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Options{})
		client, server := w.connect(Options{})
		began := time.Now()
		if _, err := client.Write([]byte("hello")); err != nil { // into a pipe, which nobody reads
			t.Fatal(err)
		}
		if took := time.Since(began); took > (stuckBeats+2)*defaultHeartbeat {
			t.Errorf("it took %v", took)
		}
		synctest.Wait()
		b := make([]byte, 9)
		if n, err := server.Read(b); err != nil || string(b[:n]) != "hello" {
			t.Errorf("read %q, %v", b[:n], err)
		}
	})
}

// While nobody takes what was written, Write waits, and memory is bounded.
func TestMemoryIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Options{})
		client, _ := w.connect(Options{Window: minWindow})
		w.setDown(errors.New("no network"))
		go func() { _, _ = client.Read(make([]byte, 1)) }()
		_ = w.last().Close()
		synctest.Wait()
		for _, size := range []int{1, 100, 70 << 10, 1 << 20} {
			_ = client.SetWriteDeadline(time.Now().Add(time.Second))
			var err error
			for err == nil {
				_, err = client.Write(make([]byte, size))
			}
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("writing %d bytes at a time ended with %v", size, err)
			}
			client.mu.Lock()
			held := 0
			for _, s := range client.out.slabs {
				held += len(s.buf)
			}
			if held != client.out.held || held > minWindow+largeSlab {
				t.Errorf("writing %d bytes at a time: %d bytes of memory are held, %d counted, want %d at most", size, held, client.out.held, minWindow+largeSlab)
			}
			client.mu.Unlock()
		}
	})
}

// What was acknowledged is not kept: an idle connection has no memory.
func TestIdleMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Options{})
		client, server := w.connect(Options{})
		for _, c := range []*Conn{client, server} {
			go func() { _, _ = io.Copy(io.Discard, c) }()
		}
		for range 100 {
			if _, err := client.Write(make([]byte, 50<<10)); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(7 * defaultHeartbeat / 2)
		for _, c := range []*Conn{client, server} {
			c.mu.Lock()
			if c.out.held != 0 {
				t.Errorf("%d bytes are held", c.out.held)
			}
			c.mu.Unlock()
		}
	})
}

// Close says so to the peer, after all that was written, also when both do it at once.
func TestClose(t *testing.T) {
	for name, closers := range map[string]func(a, b *Conn) []*Conn{
		"client": func(a, _ *Conn) []*Conn { return []*Conn{a} },
		"server": func(_, b *Conn) []*Conn { return []*Conn{b} },
		"both":   func(a, b *Conn) []*Conn { return []*Conn{a, b} },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, Options{})
				client, server := w.connect(Options{Paused: func(err error) { t.Errorf("a pause: %v", err) }})
				who := closers(client, server)
				if len(who) == 1 {
					peer := map[bool]*Conn{true: server, false: client}[who[0] == client]
					go func() { _, _ = who[0].Write([]byte("last words")); _ = who[0].Close() }()
					got, err := io.ReadAll(peer)
					if err != nil || string(got) != "last words" {
						t.Errorf("read %q, %v", got, err)
					}
					if _, err := peer.Write([]byte("x")); err == nil {
						t.Error("the closed connection can be written to")
					}
				}
				began := time.Now()
				done := make(chan struct{}, 2)
				for _, c := range []*Conn{client, server} {
					go func() { _ = c.Close(); done <- struct{}{} }()
				}
				<-done
				<-done
				if took := time.Since(began); took > 0 {
					t.Errorf("closing took %v", took)
				}
				time.Sleep(time.Minute)
			})
		})
	}
}

// Who has no more use for a connection in a pause can close it.
func TestCloseInAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Options{})
		client, server := w.connect(Options{})
		w.setDown(errors.New("no network"))
		_ = w.last().Close()
		blocked := make(chan error, 2)
		for _, c := range []*Conn{client, server} {
			go func() { _, err := c.Read(make([]byte, 1)); blocked <- err }()
		}
		synctest.Wait()
		began := time.Now()
		_, _ = client.Close(), server.Close()
		for range 2 {
			if err := <-blocked; !errors.Is(err, net.ErrClosed) {
				t.Errorf("reading ended with %v", err)
			}
		}
		if took := time.Since(began); took > closeTime {
			t.Errorf("it took %v", took)
		}
	})
}

func TestHopeless(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Options{})
		gone := errors.New("the pod was deleted")
		client, _ := w.connect(Options{Hopeless: func(_ context.Context, err error) error { return gone }})
		w.setDown(errors.New("refused"))
		_ = w.last().Close()
		began := time.Now()
		_, err := client.Read(make([]byte, 1))
		var g *GoneError
		if !errors.As(err, &g) || !errors.Is(err, gone) {
			t.Errorf("reading ended with %v", err)
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("it took %v", took)
		}
	})
}

// A server that has ended the connection says so, and is believed after a while.
func TestForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Options{})
		client, server := w.connect(Options{})
		_ = w.last().Close()
		_ = server.Close()
		began := time.Now()
		_, err := client.Read(make([]byte, 1))
		var g *GoneError
		if !errors.As(err, &g) || !errors.Is(err, errUnknown) {
			t.Errorf("reading ended with %v", err)
		}
		if took := time.Since(began); took < forgottenTime || took > 4*forgottenTime {
			t.Errorf("it took %v", took)
		}
	})
}

func TestOtherVersions(t *testing.T) {
	for name, answer := range map[string][]byte{
		"newer":    append([]byte(magic), 9, answerVersion),
		"TLS only": bytes.Repeat([]byte{0x15, 3, 3, 0, 2}, 4),
	} {
		t.Run(name, func(t *testing.T) {
			a, b := net.Pipe()
			go func() { _, _ = io.Copy(io.Discard, b) }()
			go func() { _, _ = b.Write(answer) }()
			client, err := Dial(t.Context(), quiet, func(context.Context) (net.Conn, error) { return a, nil }, Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			_, err = client.Read(make([]byte, 1))
			var v *VersionError
			if !errors.As(err, &v) && !errors.Is(err, ErrMalformed) {
				t.Errorf("reading: %v", err)
			}
			t.Log(err)
		})
	}
	t.Run("of a client", func(t *testing.T) {
		a, b := net.Pipe()
		defer a.Close()
		go func() { _, _ = a.Write(append([]byte(magic), 9, wantNew)) }()
		got := make(chan []byte, 1)
		go func() { b := make([]byte, helloSize); _, _ = io.ReadFull(a, b); got <- b }()
		_, err := NewServer(quiet, Options{}).Accept(t.Context(), b)
		var v *VersionError
		if !errors.As(err, &v) || v.Theirs != 9 {
			t.Errorf("accepting: %v", err)
		}
		if err := checkAnswer(<-got); !errors.As(err, &v) {
			t.Errorf("the client was told %v", err)
		}
	})
}

// FuzzInbound: whatever arrives on a carrier is data, an error, or a wait for more.
func FuzzInbound(f *testing.F) {
	var q queue
	one := uint64(1)
	q.append([]byte("data"), &one)
	q.appendAck(7)
	q.appendEnd()
	_, valid := q.unsent()
	f.Add(valid, false)
	f.Add(append(appendHello(nil, answerOK), valid...), true)
	f.Add([]byte{frameData, 0xff, 0xff, 0xff, 1}, false)
	f.Fuzz(func(t *testing.T, b []byte, greeting bool) {
		in := inbound{r: bytes.NewReader(b)}
		if greeting {
			in.hello = helloSize
		}
		p := make([]byte, 7)
		total := 0
		for range len(b) + 2 {
			n, fr, err := in.next(p)
			if n < 0 || n > len(p) || n > 0 && fr.kind != 0 {
				t.Fatalf("%d bytes with %+v", n, fr)
			}
			if total += n; total > len(b) {
				t.Fatal("more data than there is")
			}
			if err != nil {
				return
			}
		}
		t.Fatal("it never ends")
	})
}

// FuzzServer: whatever a stranger says, the server ends the carrier, starts a connection that nothing
// is known of, or waits.
func FuzzServer(f *testing.F) {
	k, err := newKeys(secret)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(appendHello(nil, wantNew))
	resume := append(append(appendHello(nil, wantResume), k.id[:]...), make([]byte, nonceSize)...)
	f.Add(resume)
	f.Add(append(resume, binary.BigEndian.AppendUint64(make([]byte, proofSize), 0)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, Options{})
			client, server := w.connect(Options{Paused: func(err error) { t.Errorf("a stranger ended the carrier: %v", err) }})
			for _, c := range []*Conn{client, server} {
				go func() { _, _ = io.Copy(io.Discard, c) }()
			}
			x, y := net.Pipe()
			go func() { _, _ = x.Write(b); _, _ = io.CopyN(io.Discard, x, 1000); _ = x.Close() }()
			if c, err := w.server.Accept(t.Context(), y); err == nil && c == nil {
				t.Error("a stranger has taken over the connection")
			} else if c != nil {
				_ = c.Close()
			}
			_ = x.Close()
			_, _ = client.Close(), server.Close()
		})
	})
}
