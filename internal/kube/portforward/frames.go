package portforward

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/moby/spdystream/spdy"
)

const (
	headerSize     = 8
	controlBit     = 1 << 31
	maxControlSize = 64 << 10 // the largest frame of the server, a SYN_REPLY, is some 50 bytes
)

var errProtocol = errors.New("the server broke the SPDY protocol")

// writeLoop sends what is queued, as much at a time as one frame carries, until the queue
// ends or the network breaks.
func (c *Conn) writeLoop() {
	frame := make([]byte, headerSize+maxPayload)
	for {
		n, err := c.out.Read(frame[headerSize:])
		if err != nil {
			// The queue has ended: tell the pod, as a closing socket does.
			_ = c.send(appendHeader(nil, dataStream, spdy.DataFlagFin, 0))
			return
		}
		appendHeader(frame[:0], dataStream, 0, n)
		if err := c.send(frame[:headerSize+n]); err != nil {
			err = fmt.Errorf("%w: %w", ErrLost, err)
			c.out.fail(err)
			c.in.end(err)
			return
		}
	}
}

// send writes one whole frame.
func (c *Conn) send(frame []byte) error {
	c.sending.Lock()
	defer c.sending.Unlock()
	_, err := c.rwc.Write(frame)
	return err
}

func appendHeader(b []byte, id spdy.StreamId, flags spdy.DataFlags, length int) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(id))
	return binary.BigEndian.AppendUint32(b, uint32(flags)<<24|uint32(length))
}

// readLoop hands on what arrives until the server ends the stream or the network breaks.
func (c *Conn) readLoop() {
	defer close(c.heard)
	d := newDecoder(c.rwc, inbox{c.in}, c.send)
	err := d.run()
	switch text := strings.TrimSpace(d.errorText.String()); {
	case text != "":
		err = &ForwardError{Addr: c.addr.String(), Text: text}
	case errors.Is(err, errFinished):
		err = io.EOF
	default:
		err = fmt.Errorf("%w: %w", ErrLost, err)
	}
	c.in.end(err)
	if err != io.EOF { //nolint:errorlint // set just above
		c.out.fail(err)
	}
}

// inbox drops what arrives after Close, so that the server's last word is still heard.
type inbox struct{ *buffer }

func (i inbox) Write(p []byte) (int, error) {
	n, err := i.buffer.Write(p)
	if errors.Is(err, net.ErrClosed) {
		return len(p), nil
	}
	return n, err
}

// errFinished says that the pod closed its side, which is no failure.
var errFinished = errors.New("the pod closed the connection")

// decoder reads the server's frames. Data goes to its place as it comes in, so that a
// frame's length, which the server chooses, costs no memory.
type decoder struct {
	r     *bufio.Reader
	data  io.Writer
	chunk []byte
	reply func(frame []byte) error

	errorText bytes.Buffer

	framer *spdy.Framer // keeps the decompressor's state over frames
	frame  bytes.Buffer // what framer reads from
}

func newDecoder(r io.Reader, data io.Writer, reply func([]byte) error) *decoder {
	return &decoder{
		r:     bufio.NewReaderSize(r, maxPayload),
		data:  data,
		chunk: make([]byte, 32<<10),
		reply: reply,
	}
}

// run returns why it stopped, never nil.
func (d *decoder) run() error {
	for {
		h, err := d.r.Peek(headerSize)
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		first, second := binary.BigEndian.Uint32(h), binary.BigEndian.Uint32(h[4:])
		flags, length := byte(second>>24), int64(second&0xffffff)
		if first&controlBit != 0 {
			err = d.control(length)
		} else {
			_, _ = d.r.Discard(headerSize)
			err = d.payload(spdy.StreamId(first), spdy.DataFlags(flags), length)
		}
		if err != nil {
			return err
		}
	}
}

func (d *decoder) payload(id spdy.StreamId, flags spdy.DataFlags, length int64) error {
	var to io.Writer
	switch id {
	case dataStream:
		to = d.data
	case errorStream:
		to = &limitedWriter{&d.errorText, maxErrorText}
	default:
		return fmt.Errorf("%w: data on stream %d", errProtocol, id)
	}
	if err := d.copy(to, length); err != nil {
		return err
	}
	if id == dataStream && flags&spdy.DataFlagFin != 0 {
		return errFinished
	}
	return nil
}

// copy moves length bytes on, each as soon as it is there.
func (d *decoder) copy(to io.Writer, length int64) error {
	for length > 0 {
		n, err := d.r.Read(d.chunk[:min(length, int64(len(d.chunk)))])
		if err != nil {
			return err
		}
		if _, err := to.Write(d.chunk[:n]); err != nil {
			return err
		}
		length -= int64(n)
	}
	return nil
}

func (d *decoder) control(length int64) error {
	if length > maxControlSize {
		return fmt.Errorf("%w: a control frame of %d bytes", errProtocol, length)
	}
	d.frame.Reset()
	if err := d.copy(&d.frame, headerSize+length); err != nil {
		return err
	}
	raw := bytes.Clone(d.frame.Bytes())
	if d.framer == nil {
		f, err := spdy.NewFramer(io.Discard, &d.frame)
		if err != nil {
			return err
		}
		d.framer = f
	}
	frame, err := d.framer.ReadFrame()
	if err != nil {
		return fmt.Errorf("%w: %w", errProtocol, err)
	}
	switch f := frame.(type) {
	case *spdy.PingFrame:
		// Pings with even numbers are the server's, and want their bytes back.
		if f.Id%2 == 0 {
			return d.reply(raw)
		}
	case *spdy.RstStreamFrame:
		if f.StreamId == dataStream {
			return fmt.Errorf("the server reset the stream with status %d", f.Status)
		}
	case *spdy.GoAwayFrame:
		return errors.New("the server says that it is going away")
	}
	return nil
}

// limitedWriter keeps the first bytes and drops the rest.
type limitedWriter struct {
	b   *bytes.Buffer
	max int
}

func (w *limitedWriter) Write(p []byte) (int, error) {
	w.b.Write(p[:min(len(p), max(0, w.max-w.b.Len()))])
	return len(p), nil
}
