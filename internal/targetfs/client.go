package targetfs

import (
	"bufio"
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// maxCalls bounds the requests that wait for a reply, and maxWrites those of them that carry data.
	maxCalls  = 128
	maxWrites = 16
	// bufferSize spares reads of the stream for small messages.
	bufferSize = 32 << 10
)

// Client is an [FS] over one stream. Make one with [NewClient].
type Client struct {
	conn   io.ReadWriteCloser
	frames chan frame    // to the writer
	slots  chan struct{} // one for each call
	writes chan struct{} // one for each call with data

	readers readers // of files, ahead

	// changes counts writes: what was read ahead before one is not used after it.
	changes atomic.Uint64

	mu      sync.Mutex
	last    uint32
	calls   map[uint32]*call
	err     error         // why it ended
	closing []uint32      // handles to give back
	closes  chan struct{} // closing is not empty; holds one

	done    chan struct{}
	workers sync.WaitGroup
}

// call is a request that waits for its reply.
type call struct {
	op     op
	counts []chan struct{} // given back with the reply

	done  chan struct{} // closed with the rest
	reply *reply
	err   error
	came  time.Time

	sent      bool // or on its way; guarded by Client.mu
	abandoned bool // nobody waits; guarded by Client.mu
}

// frame is what the writer writes for a call.
type frame struct {
	bytes []byte
	call  *call
}

// NewClient speaks over conn, a stream of kind files whose first byte is written already. It owns conn. When it is closed, or conn
// is lost, all calls fail with ESTALE.
func NewClient(conn io.ReadWriteCloser) *Client {
	c := &Client{
		conn: conn, frames: make(chan frame, maxCalls), slots: make(chan struct{}, maxCalls), writes: make(chan struct{}, maxWrites),
		calls: map[uint32]*call{}, closes: make(chan struct{}, 1), done: make(chan struct{}),
	}
	c.workers.Go(c.read)
	c.workers.Go(c.write)
	return c
}

// Done is closed when the client can't be used any more.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err says why, after Done: io.ErrClosedPipe after Close, nil before.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close ends the connection. The handles of the target go with it.
func (c *Client) Close() error {
	c.end(io.ErrClosedPipe)
	c.workers.Wait()
	return nil
}

func (c *Client) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.err = err
	close(c.done)
	_ = c.conn.Close()
	for id, call := range c.calls {
		delete(c.calls, id)
		call.finish(nil, c.lost())
	}
}

// lost is what calls fail with after the end.
func (c *Client) lost() error { return &lostError{c.err} }

// lostError says that there is no way to the target any more.
type lostError struct{ cause error }

func (e *lostError) Error() string { return "no way to the target's files: " + e.cause.Error() }
func (e *lostError) Unwrap() error { return errSTALE }

func (c *call) finish(r *reply, err error) {
	c.reply, c.err, c.came = r, err, time.Now()
	for _, count := range c.counts {
		<-count
	}
	close(c.done)
}

// write writes frames until the end.
func (c *Client) write() {
	for {
		var bytes []byte
		select {
		case f := <-c.frames:
			c.mu.Lock()
			f.call.sent = true
			c.mu.Unlock()
			bytes = f.bytes
		case <-c.closes:
			bytes = c.closeFrames()
		case <-c.done:
			return
		}
		if _, err := c.conn.Write(bytes); err != nil {
			c.end(err)
			return
		}
	}
}

// closeFrames gives the handles back that nobody needs any more. No reply comes.
func (c *Client) closeFrames() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	var frames []byte
	for _, handle := range c.closing {
		frames, _ = appendRequest(frames, &request{op: opClose, handle: handle}) // always short enough
	}
	c.closing = nil
	return frames
}

// release lets the writer give a handle back. The caller holds mu.
func (c *Client) release(handle uint32) {
	c.closing = append(c.closing, handle)
	select {
	case c.closes <- struct{}{}:
	default:
	}
}

// read gives replies to their calls until the end.
func (c *Client) read() {
	r := bufio.NewReaderSize(c.conn, bufferSize)
	for {
		frame, err := readFrame(r, nil)
		if err == nil {
			err = c.deliver(frame)
		}
		if err != nil {
			c.end(err)
			return
		}
	}
}

func (c *Client) deliver(frame []byte) error {
	r, body, err := parseHead(frame)
	if err != nil {
		return err
	}
	c.mu.Lock()
	call := c.calls[r.id]
	sent := call != nil && call.sent
	c.mu.Unlock()
	if !sent { // Without its reply, a call has room for its request.
		return errors.Join(ErrMalformed, errors.New("a reply to no request"))
	}
	if err := r.parseBody(call.op, body); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return c.err // which has finished the call
	}
	delete(c.calls, r.id)
	call.finish(r, nil)
	if call.abandoned {
		c.unwanted(call)
	}
	return nil
}

// unwanted gives the handle back that came with a reply which nobody waits for. The caller holds mu.
func (c *Client) unwanted(call *call) {
	if call.op == opOpen && call.err == nil && call.reply.errno == 0 {
		c.release(call.reply.handle)
	}
}

// acquire waits for room in each of the counts.
func (c *Client) acquire(ctx context.Context, counts ...chan struct{}) error {
	for i, count := range counts {
		var err error
		select {
		case count <- struct{}{}:
			continue
		case <-ctx.Done():
			err = context.Cause(ctx)
		case <-c.done:
			err = c.lost()
		}
		for _, count := range counts[:i] {
			<-count
		}
		return err
	}
	return nil
}

// start sends a request that holds the counts already; the slots of calls is among them. It does not block.
func (c *Client) start(r *request, counts ...chan struct{}) *call {
	call := &call{op: r.op, counts: counts, done: make(chan struct{})}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		call.finish(nil, c.lost())
		return call
	}
	for {
		c.last++
		if c.last != 0 && c.calls[c.last] == nil {
			break
		}
	}
	r.id = c.last
	bytes, err := appendRequest(make([]byte, 0, 64+len(r.path)+len(r.second)+len(r.data)), r)
	if err != nil {
		call.finish(nil, err)
		return call
	}
	c.calls[r.id] = call
	c.frames <- frame{bytes, call} // There is room for each call's.
	return call
}

// wait waits for the reply. The error is an *Error when the target says so.
func (c *Client) wait(ctx context.Context, call *call, path string) (*reply, error) {
	select {
	case <-call.done:
	case <-ctx.Done():
		c.abandon(call)
		return nil, context.Cause(ctx)
	}
	if call.err != nil {
		return nil, call.err
	}
	if r := call.reply; r.errno != 0 {
		return nil, &Error{Op: call.op.String(), Path: path, Errno: syscall.Errno(r.errno), Reason: r.reason}
	}
	return call.reply, nil
}

// abandon says that nobody waits for the reply.
func (c *Client) abandon(call *call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-call.done:
		c.unwanted(call) // It came just now.
	default:
		call.abandoned = true
	}
}

// call sends a request and waits for its reply.
func (c *Client) call(ctx context.Context, r *request) (*reply, error) {
	if len(r.path) > MaxPath || len(r.second) > MaxPath {
		return nil, &Error{Op: r.op.String(), Path: r.path, Errno: errNAMETOOLONG}
	}
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	if err := c.acquire(ctx, c.slots); err != nil {
		return nil, err
	}
	return c.wait(ctx, c.start(r, c.slots), r.path)
}
