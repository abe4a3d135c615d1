package targetfs

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// memory is one file of zeros, of any size, and counts what is asked for. Whatever is not about files has nothing behind it.
type memory struct {
	FS
	size  int64
	delay time.Duration
	// block, when set, holds opens up until it is closed.
	block chan struct{}

	reads, open, most atomic.Int64
	mu                sync.Mutex
	asked             map[int64]int
}

func (m *memory) Open(context.Context, string, OpenFlags, uint32) (File, error) {
	if m.block != nil {
		<-m.block
	}
	m.open.Add(1)
	return &zeros{m: m}, nil
}

func (m *memory) Stat(context.Context, string, bool) (Attr, error) { return Attr{Size: m.size}, nil }

type zeros struct {
	File
	m *memory
}

func (z *zeros) Attr() Attr { return Attr{Mode: typeRegular, Size: z.m.size} }

func (z *zeros) ReadAt(_ context.Context, b []byte, off int64) (int, error) {
	now := z.m.reads.Add(1)
	defer z.m.reads.Add(-1)
	for most := z.m.most.Load(); now > most && !z.m.most.CompareAndSwap(most, now); most = z.m.most.Load() {
	}
	time.Sleep(z.m.delay) // stands for the way to the target
	z.m.mu.Lock()
	defer z.m.mu.Unlock()
	if z.m.asked == nil {
		z.m.asked = map[int64]int{}
	}
	z.m.asked[off]++
	n := max(0, min(int64(len(b)), z.m.size-off))
	clear(b[:n])
	return int(n), nil
}

func (z *zeros) Close() error {
	z.m.open.Add(-1)
	return nil
}

// pair joins a client and a server.
func pair(t *testing.T, fs FS) *Client {
	t.Helper()
	near, far := net.Pipe()
	var served sync.WaitGroup
	served.Go(func() {
		// A client that has ended does not wait for the last answers.
		if err := Serve(context.Background(), far, fs); err != nil && !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("serving: %v", err)
		}
	})
	c := NewClient(near)
	t.Cleanup(func() {
		_ = c.Close()
		served.Wait()
	})
	return c
}

// TestReadAhead: sequential reads have many pieces on their way at once, and ask for each once; others have only their own.
func TestReadAhead(t *testing.T) {
	m := &memory{size: 16 << 20, delay: 20 * time.Millisecond}
	c := pair(t, m)
	f, err := c.Open(t.Context(), "/x", Read, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 64<<10)
	total := 0
	for {
		n, err := f.ReadAt(t.Context(), b, int64(total))
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			break
		}
		total += n
	}
	if total != 16<<20 {
		t.Errorf("read %d", total)
	}
	if m.most.Load() < 4 {
		t.Errorf("%d reads at most were on their way", m.most.Load())
	}
	m.mu.Lock()
	if len(m.asked) > 80 {
		t.Errorf("%d reads", len(m.asked))
	}
	for off, n := range m.asked {
		if n > 1 && off < m.size {
			t.Errorf("%d was asked for %d times", off, n)
		}
	}
	m.asked = nil
	m.mu.Unlock()
	for _, off := range []int64{9 << 20, 1 << 20, 12 << 20, 5 << 20} {
		if n, err := f.ReadAt(t.Context(), b[:100], off); n != 100 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.asked) != 4 {
		t.Errorf("four reads here and there were %d", len(m.asked))
	}
}

// TestSmall: a small file needs no request but the one that opens it.
func TestSmall(t *testing.T) {
	m := &memory{size: 1000}
	c := pair(t, m)
	f, err := c.Open(t.Context(), "/x", Read, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 4096)
	for _, off := range []int64{0, 1000, 0} {
		if n, err := f.ReadAt(t.Context(), b, off); int64(n) != 1000-off || err != nil {
			t.Errorf("at %d: %d, %v", off, n, err)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.asked[0] != 1 || len(m.asked) != 1 {
		t.Errorf("reads: %v", m.asked)
	}
}

// TestGivenUp: a call ends with its context, and a file that opens after that is closed.
func TestGivenUp(t *testing.T) {
	m := &memory{block: make(chan struct{})}
	c := pair(t, m)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := c.Open(ctx, "/x", Read, 0); !errors.Is(err, context.DeadlineExceeded) || Errno(err) != errINTR {
		t.Errorf("%v", err)
	}
	if _, err := c.Stat(t.Context(), "/x", true); err != nil {
		t.Errorf("another call: %v", err)
	}
	close(m.block)
	for deadline := time.Now().Add(time.Minute); ; {
		f, err := c.Open(t.Context(), "/x", Read, 0)
		if err != nil {
			t.Fatal(err)
		}
		n := m.open.Load()
		_ = f.Close()
		if n == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d files are open", n)
		}
	}
}

// TestLost: when the connection is gone, calls under way and later ones fail with ESTALE, and the server closes all files.
func TestLost(t *testing.T) {
	m := &memory{size: 10}
	near, far := net.Pipe()
	done := make(chan error)
	go func() { done <- Serve(t.Context(), far, m) }()
	c := NewClient(near)
	f, err := c.Open(t.Context(), "/x", Read|Write, 0)
	if err != nil {
		t.Fatal(err)
	}
	waits := make(chan error, 1)
	m.block = make(chan struct{})
	go func() {
		_, err := c.Open(t.Context(), "/y", Read, 0)
		waits <- err
	}()
	_ = far.Close()
	if err := <-waits; Errno(err) != errSTALE {
		t.Errorf("a call under way: %v", err)
	}
	<-c.Done()
	if _, err := f.ReadAt(t.Context(), make([]byte, 1), 0); Errno(err) != errSTALE {
		t.Errorf("a file: %v", err)
	}
	if _, err := c.Stat(t.Context(), "/x", true); Errno(err) != errSTALE || c.Err() == nil {
		t.Errorf("a later call: %v", err)
	}
	close(m.block)
	if err := <-done; err != nil && !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("serving: %v", err)
	}
	if n := m.open.Load(); n != 0 {
		t.Errorf("%d files are open", n)
	}
	_ = c.Close()
}

// TestServeEnds: Serve ends with its context, and with what is no request.
func TestServeEnds(t *testing.T) {
	near, far := net.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- Serve(ctx, far, &memory{}) }()
	cancel()
	if err := <-done; err != nil {
		t.Errorf("%v", err)
	}
	_ = near.Close()
	near, far = net.Pipe()
	go func() { done <- Serve(t.Context(), far, &memory{}) }()
	_, _ = near.Write([]byte{0, 0, 0, 5, 0, 0, 0, 1, 99})
	if err := <-done; !errors.Is(err, ErrMalformed) {
		t.Errorf("%v", err)
	}
	_ = near.Close()
}

// TestLongNames fail here.
func TestLongNames(t *testing.T) {
	c := pair(t, &memory{})
	if _, err := c.Stat(t.Context(), string(make([]byte, MaxPath+1)), true); Errno(err) != errNAMETOOLONG {
		t.Errorf("%v", err)
	}
}
