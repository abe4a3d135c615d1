package pipe_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/mirrord-go/mirrord/internal/pipe"
)

// Messages and large pieces come as they were written, also over what is no socket.
func TestWriterOf(t *testing.T) {
	client, server := tcpPair(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = r.Close(), w.Close() })
	for _, tt := range []struct {
		name string
		from io.WriteCloser
		to   syscall.Conn
	}{{"socket", client, server}, {"pipe", w, r}} {
		t.Run(tt.name, func(t *testing.T) {
			var sent []byte
			rng := rand.NewChaCha8([32]byte{})
			sizes := []int{1, 0, 100, 8 << 10, 16 << 10, 1<<20 + 1, 3, 40 << 10}
			for _, n := range sizes {
				piece := make([]byte, n)
				_, _ = rng.Read(piece)
				sent = append(sent, piece...)
			}
			wrote := make(chan error, 1)
			go func() {
				defer tt.from.Close()
				write, rest := pipe.WriterOf(tt.from), sent
				for _, n := range sizes {
					if m, err := write(rest[:n]); m != n || err != nil {
						wrote <- errors.Join(io.ErrShortWrite, err)
						return
					}
					rest = rest[n:]
				}
				wrote <- nil
			}()
			var got []byte
			read := pipe.ReaderOf(tt.to)
			for {
				buf, n, err := read()
				if errors.Is(err, io.EOF) {
					break
				} else if err != nil {
					t.Fatal(err)
				}
				got = append(got, (*buf)[:n]...)
				pipe.PutBuffer(buf)
			}
			if err := <-wrote; err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, sent) {
				t.Errorf("%d bytes came that are not the %d that were written", len(got), len(sent))
			}
		})
	}
}

// Who writes learns how much was written before a deadline, and that the connection was closed.
func TestWriterOfFails(t *testing.T) {
	client, server := tcpPair(t)
	write := pipe.WriterOf(client)
	_ = client.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
	written := 0
	for {
		n, err := write(make([]byte, 10<<10))
		written += n
		if err == nil {
			continue
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("a write that nobody reads: %v", err)
		}
		break
	}
	_ = client.Close()
	if n, err := io.Copy(io.Discard, struct{ io.Reader }{server}); n != int64(written) || err != nil {
		t.Errorf("%d bytes came of %d, %v", n, written, err)
	}
	if _, err := write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("writing to a closed connection: %v", err)
	}
}
