package resume

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// scissors cut a carrier after a number of bytes that are written to it.
type scissors struct {
	net.Conn
	left atomic.Int64
	cut  atomic.Bool
}

var errCut = errors.New("cut")

const never = 1 << 40

func (s *scissors) Write(p []byte) (int, error) {
	left := s.left.Add(-int64(len(p)))
	if left >= 0 {
		n, err := s.Conn.Write(p)
		if left == 0 {
			s.cut.Store(true)
			_ = s.Close()
		}
		return n, err
	}
	if n := left + int64(len(p)); n > 0 {
		_, _ = s.Conn.Write(p[:n])
	}
	s.cut.Store(true)
	_ = s.Close()
	return 0, errCut
}

// talk runs a small exchange: both sides say lines of several sizes and answer those of the other.
func talk(t *testing.T, client, server *Conn) {
	t.Helper()
	lines := [][]byte{[]byte("a"), []byte("0123456789"), bytes.Repeat([]byte("x"), 60)}
	speak := func(c *Conn, first bool) error {
		for i, line := range lines {
			if first == (i%2 == 0) {
				if _, err := c.Write(line); err != nil {
					return fmt.Errorf("writing line %d: %w", i, err)
				}
				continue
			}
			got := make([]byte, len(line))
			if _, err := io.ReadFull(c, got); err != nil {
				return fmt.Errorf("reading line %d: %w", i, err)
			}
			if !bytes.Equal(got, line) {
				return fmt.Errorf("line %d is %q, want %q", i, got, line)
			}
		}
		// Then both at once, and to the end.
		done := make(chan error, 1)
		go func() {
			_, err := c.Write([]byte("last words"))
			done <- err
		}()
		got := make([]byte, 10)
		_, err := io.ReadFull(c, got)
		if string(got) != "last words" {
			err = errors.Join(err, fmt.Errorf("the last words are %q", got))
		}
		return errors.Join(err, <-done)
	}
	done := make(chan error, 1)
	go func() { done <- speak(server, false) }()
	err := speak(client, true)
	if err := errors.Join(err, <-done); err != nil {
		t.Fatal(err)
	}
}

// cutAt runs the exchange with the first carrier cut after some bytes of one direction, and
// the second one too. It says whether the cuts happened.
func cutAt(t *testing.T, up bool, first, second int64) (cut1, cut2 bool) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Options{})
		var cutters [2]*scissors
		w.cut = func(n int, a, b net.Conn) (net.Conn, net.Conn) {
			if n > 1 {
				return a, b
			}
			s := &scissors{}
			cutters[n] = s
			s.left.Store(never)
			if n == 1 {
				s.left.Store(second)
			}
			if up {
				s.Conn = a
				return s, b
			}
			s.Conn = b
			return a, s
		}
		var paused, resumed atomic.Int32
		client, server := w.connect(Options{
			Paused:  func(error) { paused.Add(1) },
			Resumed: func(time.Duration) { resumed.Add(1) },
		})
		synctest.Wait()
		cutters[0].left.Store(first)
		talk(t, client, server)
		if err := errors.Join(client.Close(), server.Close()); err != nil {
			t.Errorf("closing: %v", err)
		}
		cut1 = cutters[0].cut.Load()
		cut2 = cutters[1] != nil && cutters[1].cut.Load()
		if p, r := paused.Load(), resumed.Load(); p != r && !(p == r+1 && !cut2) {
			t.Errorf("%d pauses and %d ends of one", p, r)
		}
	})
	return cut1, cut2
}

// Carriers are cut after every number of bytes, in either direction.
func TestCutAfterEveryByte(t *testing.T) {
	for _, up := range []bool{true, false} {
		t.Run(map[bool]string{true: "up", false: "down"}[up], func(t *testing.T) {
			var total int64
			for cut := true; cut; total++ {
				if cut, _ = cutAt(t, up, total, never); t.Failed() {
					t.Fatalf("cut after %d bytes", total)
				}
			}
			if total < 20 {
				t.Fatalf("the exchange took %d bytes, less than what is said in it", total)
			}
			// The second carrier begins with the handshake.
			for _, first := range []int64{0, 1, total / 2} {
				var second int64
				for cut := true; cut; second++ {
					if _, cut = cutAt(t, up, first, second); t.Failed() {
						t.Fatalf("cut after %d and %d bytes", first, second)
					}
				}
				if second < statementSize {
					t.Fatalf("the second carrier carried %d bytes", second)
				}
			}
		})
	}
}

// sum reads n bytes and sends their checksum. It goes on reading, as whoever uses a tunnel does.
func sum(r io.Reader, n int64, out chan<- [32]byte) error {
	h := sha256.New()
	_, err := io.CopyN(h, r, n)
	out <- [32]byte(h.Sum(nil))
	go func() { _, _ = io.Copy(io.Discard, r) }()
	return err
}

// pour writes n bytes in pieces of many sizes, and sends their checksum.
func pour(w io.Writer, n int64, seed uint64, out chan<- [32]byte) error {
	h := sha256.New()
	rng := rand.New(rand.NewPCG(seed, 1))
	buf := make([]byte, 600<<10)
	for n > 0 {
		size := min(n, 1+rng.Int64N([]int64{20, 2000, 70 << 10, 600 << 10}[rng.IntN(4)]))
		fill(buf[:size], rng)
		if _, err := io.MultiWriter(w, h).Write(buf[:size]); err != nil {
			return err
		}
		n -= size
	}
	out <- [32]byte(h.Sum(nil))
	return nil
}

func fill(b []byte, rng *rand.Rand) {
	for ; len(b) >= 8; b = b[8:] {
		binary.LittleEndian.PutUint64(b, rng.Uint64())
	}
}

// Under load in both directions, real connections are cut at random moments.
func TestCutUnderLoad(t *testing.T) {
	const size = 24 << 20
	w := newWorld(t, Options{Window: minWindow})
	w.pair = loopback(t)
	client, server := w.connect(Options{Window: minWindow})
	up, down, gotUp, gotDown := make(chan [32]byte, 1), make(chan [32]byte, 1), make(chan [32]byte, 1), make(chan [32]byte, 1)
	var all sync.WaitGroup
	run := func(f func() error) {
		all.Go(func() {
			if err := f(); err != nil {
				t.Error(err)
			}
		})
	}
	run(func() error { return pour(client, size, 1, up) })
	run(func() error { return pour(server, size, 2, down) })
	run(func() error { return sum(server, size, gotUp) })
	run(func() error { return sum(client, size, gotDown) })
	done := make(chan struct{})
	go func() { defer close(done); all.Wait() }()
	cuts := 0
	var cut net.Conn
	for over := false; !over; {
		select {
		case <-done:
			over = true
		// A little longer each time, so that the slowest machine comes to an end.
		case <-time.After(rand.N(30*time.Millisecond) + time.Duration(cuts)*time.Millisecond):
			if w.last() == cut {
				continue
			}
			cut = w.last()
			switch c := cut.(*net.TCPConn); rand.IntN(3) {
			case 0:
				_ = c.SetLinger(0) // a reset
				_ = c.Close()
			case 1:
				_ = c.CloseWrite() // an end without a word
			default:
				_ = c.Close()
			}
			cuts++
		}
	}
	if t.Failed() {
		return
	}
	if a, b := <-up, <-gotUp; a != b {
		t.Error("what arrived at the server differs from what was sent")
	}
	if a, b := <-down, <-gotDown; a != b {
		t.Error("what arrived at the client differs from what was sent")
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if t.Logf("%d cuts, %d carriers", cuts, len(w.made)); len(w.made) < 3 {
		t.Errorf("only %d carriers were used", len(w.made))
	}
}
