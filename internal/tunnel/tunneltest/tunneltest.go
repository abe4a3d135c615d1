// Package tunneltest is the conformance suite of [tunnel.Session]: what the rest of the
// program relies on, whatever multiplexer is behind the interface.
package tunneltest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/mirrord-go/mirrord/internal/tunnel"
)

// patience is how long the suite waits for something that must happen.
const patience = time.Minute

// Pair makes the two ends of a fresh session, which the suite closes.
type Pair func(t *testing.T) (client, server tunnel.Session)

// Run runs the suite.
func Run(t *testing.T, pair Pair) {
	for _, c := range []struct {
		name string
		f    func(t *testing.T, a, b tunnel.Session)
	}{
		{"both sides open streams", bothSidesOpen},
		{"half close", halfClose},
		{"reset", reset},
		{"large transfers each way at once", largeTransfers},
		{"a slow reader holds up no neighbour", slowReader},
		{"many streams", manyStreams},
		{"close ends everything", closeEnds},
		{"deadline", deadline},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b := pair(t)
			t.Cleanup(func() { _ = a.Close(); _ = b.Close() })
			c.f(t, a, b)
		})
	}
}

// open returns both ends of a new stream. The first byte carries its number, so that
// streams that are opened at once are told apart by the caller.
func open(t *testing.T, from, to tunnel.Session) (x, y tunnel.Stream) {
	t.Helper()
	x, err := from.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
	y, err = to.Accept()
	if err != nil {
		t.Fatal(err)
	}
	expect(t, y, []byte{1})
	t.Cleanup(func() { _ = x.Close(); _ = y.Close() })
	return x, y
}

func expect(t *testing.T, r io.Reader, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(r, got); err != nil {
		t.Fatalf("reading %q: %v", want, err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("read %q, want %q", got, want)
	}
}

func bothSidesOpen(t *testing.T, a, b tunnel.Session) {
	for _, s := range []struct{ from, to tunnel.Session }{{a, b}, {b, a}} {
		x, y := open(t, s.from, s.to)
		if _, err := x.Write([]byte("there")); err != nil {
			t.Fatal(err)
		}
		expect(t, y, []byte("there"))
		if _, err := y.Write([]byte("back")); err != nil {
			t.Fatal(err)
		}
		expect(t, x, []byte("back"))
	}
}

func halfClose(t *testing.T, a, b tunnel.Session) {
	x, y := open(t, a, b)
	if err := x.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := y.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Fatalf("reading after the peer's CloseWrite: %v, want EOF", err)
	}
	if _, err := y.Write([]byte("late")); err != nil {
		t.Fatalf("writing after the peer's CloseWrite: %v", err)
	}
	expect(t, x, []byte("late"))
}

func reset(t *testing.T, a, b tunnel.Session) {
	x, y := open(t, a, b)
	if err := x.Reset(); err != nil {
		t.Fatal(err)
	}
	_, err := y.Read(make([]byte, 1))
	var re *tunnel.ResetError
	if !errors.As(err, &re) || !re.Remote {
		t.Fatalf("reading after the peer's Reset: %v, want a remote ResetError", err)
	}
	if err := x.Reset(); err != nil {
		t.Fatalf("second Reset: %v", err)
	}
}

func largeTransfers(t *testing.T, a, b tunnel.Session) {
	const size = 24 << 20 // more than any window
	x, y := open(t, a, b)
	var wg sync.WaitGroup
	for i, s := range []struct{ from, to tunnel.Stream }{{x, y}, {y, x}} {
		data := make([]byte, size)
		_, _ = rand.NewChaCha8([32]byte{byte(i)}).Read(data)
		wg.Go(func() {
			if _, err := s.from.Write(data); err != nil {
				t.Error(err)
			}
			if err := s.from.CloseWrite(); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			h := sha256.New()
			n, err := io.Copy(h, s.to)
			if err != nil || n != size {
				t.Errorf("read %d bytes, %v", n, err)
			}
			if want := sha256.Sum256(data); !bytes.Equal(h.Sum(nil), want[:]) {
				t.Error("the bytes differ")
			}
		})
	}
	wg.Wait()
}

func slowReader(t *testing.T, a, b tunnel.Session) {
	x, _ := open(t, a, b) // nobody reads its far end
	_ = x.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
	n, err := x.Write(make([]byte, 64<<20))
	if err == nil {
		t.Fatalf("wrote %d bytes to a stream that nobody reads: its window is unbounded", n)
	}
	p, q := open(t, a, b)
	if _, err := p.Write([]byte("still here")); err != nil {
		t.Fatal(err)
	}
	expect(t, q, []byte("still here"))
}

func manyStreams(t *testing.T, a, b tunnel.Session) {
	const count = 1000
	go func() {
		for {
			s, err := b.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(s, s); _ = s.Close() }()
		}
	}()
	var wg sync.WaitGroup
	for i := range count {
		wg.Go(func() {
			s, err := a.Open(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			msg := fmt.Appendf(nil, "stream %d", i)
			_, _ = s.Write(msg)
			_ = s.CloseWrite()
			got, err := io.ReadAll(s)
			if err != nil || !bytes.Equal(got, msg) {
				t.Errorf("stream %d echoed %q, %v", i, got, err)
			}
		})
	}
	wg.Wait()
}

func closeEnds(t *testing.T, a, b tunnel.Session) {
	x, y := open(t, a, b)
	// One more that nobody has accepted must not be mistaken for the reason of the end.
	if queued, err := a.Open(t.Context()); err != nil {
		t.Fatal(err)
	} else if _, err := queued.Write([]byte("queued")); err != nil {
		t.Fatal(err)
	}
	if a.Err() != nil {
		t.Fatalf("Err before the end: %v", a.Err())
	}
	read := make(chan error, 2)
	for _, s := range []tunnel.Stream{x, y} {
		go func() { _, err := s.Read(make([]byte, 1)); read <- err }()
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	for _, s := range []tunnel.Session{a, b} {
		select {
		case <-s.Done():
		case <-time.After(patience):
			t.Fatal("a side did not notice the end")
		}
	}
	for range 2 {
		select {
		case err := <-read:
			if err == nil {
				t.Error("a blocked read came back without an error")
			}
		case <-time.After(patience):
			t.Fatal("a blocked read did not come back")
		}
	}
	if !errors.Is(a.Err(), tunnel.ErrClosed) {
		t.Errorf("Err of the side that closed: %v, want ErrClosed", a.Err())
	}
	for range 20 {
		if err := b.Err(); err == nil || errors.Is(err, tunnel.ErrClosed) || errors.Unwrap(err) == nil {
			t.Fatalf("Err of the other side: %v, want the loss with its cause", err)
		}
	}
	if _, err := a.Open(context.Background()); err == nil {
		t.Error("opened a stream on a closed session")
	}
	if _, err := a.Accept(); err == nil {
		t.Error("accepted a stream on a closed session")
	}
	if err := a.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

func deadline(t *testing.T, a, b tunnel.Session) {
	x, y := open(t, a, b)
	_ = y.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	_, err := y.Read(make([]byte, 1))
	if te, ok := err.(interface{ Timeout() bool }); !ok || !te.Timeout() {
		t.Fatalf("reading past the deadline: %v, want a timeout", err)
	}
	_ = y.SetReadDeadline(time.Time{})
	_, _ = x.Write([]byte("on"))
	expect(t, y, []byte("on"))
}
