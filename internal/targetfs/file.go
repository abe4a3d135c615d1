package targetfs

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxWindow is how far a file is read ahead, in bytes: what a link of 100 MiB/s carries in 40 ms.
	maxWindow = 4 << 20
	// maxAhead bounds the blocks that are read ahead for all files of a client, and so the memory that they take.
	maxAhead = 64
	// slack is how far reads may be out of order and still count as sequential: a kernel asks for several pieces at once.
	slack = 1 << 20
	// fresh is how long what was read ahead is used.
	fresh = 3 * time.Second
)

// file is a [File] of a [Client].
type file struct {
	c      *Client
	path   string
	handle uint32
	flags  OpenFlags
	attr   Attr
	closed atomic.Bool

	mu      sync.Mutex
	next    int64    // where sequential reads go on
	window  int64    // how far to read ahead
	blocks  []*block // read ahead: in order, without gaps
	changes uint64   // of the client, when blocks were asked for
	end     int64    // where the file ended when it was met last; -1 is unknown
}

// block is a piece of a file that was asked for.
type block struct {
	off   int64
	size  int
	call  *call
	ahead bool // it has one of the client's places for what is read ahead
}

// toEnd is the size of a block that reaches to the end of its file, so that reads behind that meet it.
const toEnd = 1 << 30

func (k *block) end() int64 { return k.off + int64(k.size) }

// stale: it came a while ago.
func (k *block) stale() bool {
	select {
	case <-k.call.done:
		return time.Since(k.call.came) > fresh
	default:
		return false
	}
}

// newFile makes a file of the reply to an open; changes is the client's count before it was asked for.
func newFile(c *Client, path string, flags OpenFlags, r *reply, changes uint64) *file {
	f := &file{c: c, path: path, handle: r.handle, flags: flags, attr: r.attr, end: -1, changes: changes}
	if len(r.data) > 0 {
		// The beginning came with the handle.
		done := &call{op: opRead, done: make(chan struct{})}
		done.finish(&reply{data: r.data}, nil)
		size := len(r.data)
		if int64(size) == r.attr.Size {
			size, f.end = toEnd, r.attr.Size
		}
		f.blocks = []*block{{size: size, call: done}}
	}
	return f
}

// Attr implements [File].
func (f *file) Attr() Attr { return f.attr }

func (f *file) call(ctx context.Context, r *request) (*reply, error) {
	if f.closed.Load() {
		return nil, &Error{Op: r.op.String(), Path: f.path, Errno: errBADF}
	}
	r.handle = f.handle
	reply, err := f.c.call(ctx, r)
	return reply, f.named(err)
}

// named says which file an error is about.
func (f *file) named(err error) error {
	if e, ok := err.(*Error); ok { //nolint:errorlint // it is made here, and wrapped nowhere
		e.Path = f.path
	}
	return err
}

// ReadAt implements [File].
func (f *file) ReadAt(ctx context.Context, b []byte, off int64) (int, error) {
	if off < 0 {
		return 0, &Error{Op: opRead.String(), Path: f.path, Errno: errINVAL}
	}
	if f.closed.Load() {
		return 0, &Error{Op: opRead.String(), Path: f.path, Errno: errBADF}
	}
	blocks := f.plan(off, len(b))
	// Ask for all that nobody has asked for yet, and only then wait.
	for _, k := range blocks {
		if k.call != nil {
			continue
		}
		if err := f.c.acquire(ctx, f.c.slots); err != nil {
			return 0, err
		}
		k.call = f.c.start(&request{op: opRead, handle: f.handle, off: k.off, size: uint32(k.size)}, f.c.slots)
	}
	n := 0
	for _, k := range blocks {
		r, err := f.c.wait(ctx, k.call, f.path)
		if err != nil {
			f.drop()
			return n, f.named(err)
		}
		if from := off + int64(n) - k.off; from < int64(len(r.data)) {
			n += copy(b[n:], r.data[from:])
		}
		if len(r.data) < k.size && n < len(b) {
			if k.size != toEnd {
				f.ended(k.off + int64(len(r.data)))
			}
			break
		}
	}
	return n, nil
}

// plan returns the blocks that a read is made of, in order: those read ahead, and others, without a call, that are its own. It has
// the file read on ahead when reads are sequential.
func (f *file) plan(off int64, size int) []*block {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := f.c.changes.Load(); now != f.changes {
		f.discard(every)
		f.end, f.changes = -1, now
	}
	to := off + int64(size)
	sequential := off >= f.next-slack && off <= f.next+slack && off > 0
	if !sequential && off != 0 {
		f.discard(every)
		f.window = 0
	}
	if slices.ContainsFunc(f.blocks, (*block).stale) {
		f.discard(every)
		f.end = -1
	}
	var parts []*block
	at := off
	own := func(until int64) {
		for at < until {
			n := int(min(until-at, MaxData))
			parts = append(parts, &block{off: at, size: n})
			at += int64(n)
		}
	}
	for _, k := range f.blocks {
		if k.end() <= at || k.off >= to {
			continue
		}
		own(k.off)
		parts = append(parts, k)
		at = k.end()
	}
	own(to)
	// What was read to its end is not kept: the file may change.
	f.discard(func(k *block) bool { return k.end() <= to })
	f.next = max(to, f.next)
	if !sequential {
		f.next = to
		return parts
	}
	f.window = min(max(2*f.window, MaxData), maxWindow)
	f.readOn(to)
	return parts
}

// readOn asks for blocks behind a read, up to the window. The caller holds mu.
func (f *file) readOn(to int64) {
	at := to
	if n := len(f.blocks); n > 0 {
		at = max(at, f.blocks[n-1].end())
	}
	for at < to+f.window && (f.end < 0 || at < f.end) && at < max(f.attr.Size, to+1) {
		if !f.c.readers.room(f) {
			return
		}
		select {
		case f.c.slots <- struct{}{}:
		default:
			f.c.readers.leave(f, 1)
			return
		}
		k := &block{off: at, size: MaxData, ahead: true}
		k.call = f.c.start(&request{op: opRead, handle: f.handle, off: at, size: MaxData}, f.c.slots)
		f.blocks = append(f.blocks, k)
		at += MaxData
	}
}

// ended remembers where the file has ended.
func (f *file) ended(at int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.discard(every)
	f.end, f.window = at, 0
}

// drop forgets what was read ahead.
func (f *file) drop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.discard(every)
	f.window = 0
}

func every(*block) bool { return true }

// discard forgets blocks, and gives their places back. The caller holds mu.
func (f *file) discard(which func(*block) bool) {
	places := 0
	f.blocks = slices.DeleteFunc(f.blocks, func(k *block) bool {
		gone := which(k)
		if gone && k.ahead {
			places++
		}
		return gone
	})
	f.c.readers.leave(f, places)
}

// WriteAt implements [File].
func (f *file) WriteAt(ctx context.Context, b []byte, off int64) (int, error) {
	f.c.changes.Add(1)
	defer f.c.changes.Add(1)
	if f.flags&Append != 0 {
		return f.append(ctx, b)
	}
	if off < 0 {
		return 0, &Error{Op: opWrite.String(), Path: f.path, Errno: errINVAL}
	}
	var calls []*call
	var failed error
	for at := 0; at < len(b); at += MaxData {
		if failed = f.c.acquire(ctx, f.c.slots, f.c.writes); failed != nil {
			break
		}
		piece := b[at:min(at+MaxData, len(b))]
		calls = append(calls, f.c.start(&request{op: opWrite, handle: f.handle, off: off + int64(at), data: piece}, f.c.slots, f.c.writes))
	}
	n := 0
	for i, call := range calls {
		r, err := f.c.wait(ctx, call, f.path)
		if err != nil {
			return n, f.named(err)
		}
		piece := min(MaxData, len(b)-i*MaxData)
		if int64(r.count) > int64(piece) {
			return n, f.wrote(r.count, piece)
		}
		n += int(r.count)
		if int(r.count) < piece {
			break
		}
	}
	if n == len(b) || failed != nil {
		return n, failed
	}
	// It became less at an error, which asking again tells.
	rest := b[n:min(n+MaxData, len(b))]
	r, err := f.call(ctx, &request{op: opWrite, off: off + int64(n), data: rest})
	if err == nil {
		if int64(r.count) > int64(len(rest)) {
			return n, f.wrote(r.count, len(rest))
		}
		n += int(r.count)
		if n < len(b) {
			err = &Error{Op: opWrite.String(), Path: f.path, Errno: errIO}
		}
	}
	return n, err
}

// wrote is what a write fails with of which the server says that it wrote more than it was given.
func (f *file) wrote(count uint32, given int) error {
	return &Error{Op: opWrite.String(), Path: f.path, Errno: errIO, Reason: fmt.Sprintf("the agent wrote %d bytes of %d", count, given)}
}

// append writes at the end, one piece after the other.
func (f *file) append(ctx context.Context, b []byte) (int, error) {
	n := 0
	for n < len(b) {
		piece := b[n:min(n+MaxData, len(b))]
		r, err := f.call(ctx, &request{op: opWrite, data: piece})
		if err != nil {
			return n, err
		}
		if int64(r.count) > int64(len(piece)) {
			return n, f.wrote(r.count, len(piece))
		}
		if r.count == 0 {
			return n, &Error{Op: opWrite.String(), Path: f.path, Errno: errIO}
		}
		n += int(r.count)
	}
	return n, nil
}

// Stat implements [File].
func (f *file) Stat(ctx context.Context) (Attr, error) {
	r, err := f.call(ctx, &request{op: opFileStat})
	if err != nil {
		return Attr{}, err
	}
	return r.attr, nil
}

// SetAttr implements [File].
func (f *file) SetAttr(ctx context.Context, ch Change) error {
	if ch.Size != nil {
		f.c.changes.Add(1)
		defer f.c.changes.Add(1)
	}
	_, err := f.call(ctx, &request{op: opFileSetAttr, change: ch})
	return err
}

// Sync implements [File].
func (f *file) Sync(ctx context.Context, dataOnly bool) error {
	_, err := f.call(ctx, &request{op: opSync, follow: dataOnly})
	return err
}

// ReadDir implements [File].
func (f *file) ReadDir(ctx context.Context, cursor int64) ([]Entry, error) {
	r, err := f.call(ctx, &request{op: opReadDir, off: cursor})
	if err != nil {
		return nil, err
	}
	return r.entries, nil
}

// Close implements [File].
func (f *file) Close() error {
	if f.closed.Swap(true) {
		return &Error{Op: opClose.String(), Path: f.path, Errno: errBADF}
	}
	f.drop()
	f.c.mu.Lock()
	defer f.c.mu.Unlock()
	f.c.release(f.handle)
	return nil
}
