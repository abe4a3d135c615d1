package tunnel

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/mirrord-go/mirrord/internal/gather"
)

// What a tunnel writes passes many hands: the API server, the node, the container runtime. Each of
// them wakes up, reads, encrypts and writes for every piece that arrives, however small. So
// the multiplexer's frames go out in as few pieces as can be without holding anything up:
//
//   - frames that are written while the previous ones are on their way leave together;
//   - a frame for which nobody waits leaves with the next one;
//   - the TLS records of one write reach the carrier in one write.

const (
	// maxBatch bounds what waits to be written, in bytes: one more frame, and the
	// multiplexer waits.
	maxBatch = 128 << 10
	// directSize is when a frame is written at once and not copied first.
	directSize = 16 << 10
	// lazyTime is how long a frame may wait for company when nobody waits for it.
	lazyTime = 5 * time.Millisecond
)

// batch is the connection below the multiplexer, which writes one whole frame at a time and from
// one goroutine.
type batch struct {
	*tls.Conn
	below *gather.Conn

	mu      sync.Mutex
	changed sync.Cond // busy or frames
	frames  []byte    // to be written
	spare   []byte    // the memory of frames, next
	urgent  bool      // somebody waits for one of the frames
	busy    bool      // somebody writes
	lazy    *time.Timer
	armed   bool             // lazy runs
	patient map[uint32]kinds // what may wait, by stream
	err     error
	closed  bool

	flusher sync.WaitGroup
}

func newBatch(c *tls.Conn, below *gather.Conn) *batch {
	b := &batch{Conn: c, below: below, patient: make(map[uint32]kinds)}
	b.changed.L = &b.mu
	b.flusher.Go(b.flush)
	return b
}

// Write takes one frame. An error may be that of an earlier one.
func (b *batch) Write(frame []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.err == nil && len(b.frames) >= maxBatch {
		b.changed.Wait()
	}
	if b.err != nil {
		return 0, b.err
	}
	if len(frame) >= directSize && len(b.frames) == 0 && !b.busy {
		b.send(frame)
		if b.err != nil {
			return 0, b.err
		}
		return len(frame), nil
	}
	b.frames = append(b.frames, frame...)
	switch {
	case !b.canWait(frame):
		b.urgent = true
		b.changed.Broadcast()
	case !b.armed:
		b.armed = true
		if b.lazy == nil {
			b.lazy = time.AfterFunc(lazyTime, b.hurry)
		} else {
			b.lazy.Reset(lazyTime)
		}
	}
	return len(frame), nil
}

// hurry ends the waiting of frames for which nobody waits.
func (b *batch) hurry() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.armed = false
	b.urgent = b.urgent || len(b.frames) > 0
	b.changed.Broadcast()
}

// flush writes frames until the connection is closed.
func (b *batch) flush() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		switch {
		case b.closed:
			return
		case b.busy || !b.urgent || b.err != nil:
			b.changed.Wait()
			continue
		}
		frames := b.frames
		b.frames, b.spare, b.urgent = b.spare[:0], nil, false
		b.send(frames)
		b.spare = frames
	}
}

// send writes while b.mu is free; it is held before and after.
func (b *batch) send(frames []byte) {
	b.busy = true
	b.changed.Broadcast() // there is room
	b.mu.Unlock()
	b.below.Hold()
	_, err := b.Conn.Write(frames)
	err = errors.Join(err, b.below.Release())
	b.mu.Lock()
	b.busy = false
	if b.err == nil && err != nil {
		b.err = err
		// The multiplexer learns of it by reading, as it may have nothing more to write.
		b.mu.Unlock()
		_ = b.below.Close()
		b.mu.Lock()
	}
	b.changed.Broadcast()
}

// SetWriteDeadline does nothing: how long a write may take is decided below, where a carrier can be
// replaced. The multiplexer would end the session.
func (b *batch) SetWriteDeadline(time.Time) error { return nil }

// Read gives what the peer sent. After a failed write it says why that failed.
func (b *batch) Read(p []byte) (int, error) {
	n, err := b.Conn.Read(p)
	if err != nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.err != nil && !b.closed {
			err = b.err
		}
	}
	return n, err
}

// Close ends the connection. What has not been written is lost.
func (b *batch) Close() error {
	b.mu.Lock()
	b.closed = true
	if b.err == nil {
		b.err = net.ErrClosed
	}
	if b.lazy != nil {
		b.lazy.Stop()
	}
	b.changed.Broadcast()
	busy := b.busy
	b.mu.Unlock()
	if busy {
		// TLS would wait for the carrier to take what is under way, and then its goodbye.
		_ = b.below.Close()
	}
	err := b.Conn.Close()
	b.flusher.Wait()
	return err
}

// Frames of yamux: version, type, 2 bytes of flags, 4 of stream and 4 of length.
const (
	frameHeader       = 12
	frameData         = 0
	frameWindowUpdate = 1
	frameSYN          = 1
	frameACK          = 2
	frameFIN          = 4
	frameRST          = 8
)

// kinds are frames of one stream for which nobody waits.
type kinds uint8

const (
	anEnd kinds = 1 << iota
	someData
)

// canWait says whether nobody waits for a frame: one that only opens a stream, behind which
// comes what the stream is for; one that only says that a stream was opened; or an end or data
// that may wait. b.mu is held.
func (b *batch) canWait(frame []byte) bool {
	flags := binary.BigEndian.Uint16(frame[2:])
	id := binary.BigEndian.Uint32(frame[4:])
	switch {
	case frame[1] == frameData:
		return b.take(id, someData)
	case frame[1] != frameWindowUpdate:
		return false
	case flags&frameRST != 0:
		delete(b.patient, id)
		return false
	case flags&frameFIN != 0:
		return b.take(id, anEnd)
	}
	return flags == frameSYN || flags == frameACK
}

// take says whether a frame of that kind may wait, once. b.mu is held.
func (b *batch) take(id uint32, k kinds) bool {
	has := b.patient[id]
	if has&^k == 0 {
		delete(b.patient, id)
	} else {
		b.patient[id] = has &^ k
	}
	return has&k != 0
}

// mayWait says that nobody waits for the next frame of that kind on a stream, which is about to be
// written.
func (b *batch) mayWait(stream uint32, k kinds) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.patient[stream] |= k
}

// isNot takes that back, for one that was not written.
func (b *batch) isNot(stream uint32, k kinds) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.take(stream, k)
}
