package targetfs

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// TestHostileWrites: a server that says it wrote more than it was given is an error, not more than was given.
func TestHostileWrites(t *testing.T) {
	for _, flags := range []OpenFlags{Write, Write | Append} {
		near, far := net.Pipe()
		var served sync.WaitGroup
		served.Go(func() {
			for {
				b, err := readFrame(far, nil)
				if err != nil {
					return
				}
				r, err := parseRequest(b)
				if err != nil {
					t.Error(err)
					return
				}
				if r.op == opClose {
					continue
				}
				frame, err := appendReply(nil, r.op, &reply{id: r.id, handle: 7, count: uint32(len(r.data)) + 3})
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := far.Write(frame); err != nil {
					return
				}
			}
		})
		c := NewClient(near)
		f, err := c.Open(t.Context(), "/x", flags, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, size := range []int{1, MaxData + 1, 3 * MaxData} {
			if n, err := f.WriteAt(t.Context(), make([]byte, size), 0); n > size || Errno(err) != errIO {
				t.Errorf("flags %#x: %d of %d, %v", flags, n, size, err)
			}
		}
		_ = f.Close()
		_ = c.Close()
		_ = far.Close()
		served.Wait()
	}
}

// TestHostileReplies: a server that answers what it has not been asked yet ends the connection, and holds up nobody.
func TestHostileReplies(t *testing.T) {
	near, far := net.Pipe()
	c := NewClient(near)
	var callers sync.WaitGroup
	for range 3 * maxCalls {
		callers.Go(func() {
			if _, err := c.Stat(t.Context(), "/x", true); Errno(err) != errSTALE {
				t.Errorf("%v", err)
			}
		})
	}
	waiting := func() int {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.calls)
	}
	for deadline := time.Now().Add(time.Minute); waiting() < maxCalls; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d calls wait", waiting())
		}
	}
	// It reads nothing, so that requests wait here, and answers them all.
	var wrote sync.WaitGroup
	wrote.Go(func() {
		for id := uint32(2); ; id++ {
			frame := binary.BigEndian.AppendUint32(nil, 8)
			frame = append(binary.BigEndian.AppendUint32(frame, id), 0, 2, 0, 0) // ENOENT, without a reason
			if _, err := far.Write(frame); err != nil {
				if !errors.Is(err, io.ErrClosedPipe) {
					t.Errorf("%v", err)
				}
				return
			}
		}
	})
	callers.Wait()
	<-c.Done()
	if !errors.Is(c.Err(), ErrMalformed) {
		t.Errorf("it ended with %v", c.Err())
	}
	_ = c.Close()
	_ = far.Close()
	wrote.Wait()
}
