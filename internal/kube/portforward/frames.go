package portforward

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/moby/spdystream/spdy"
)

const (
	headerSize     = 8
	controlBit     = 1 << 31
	maxControlSize = 4 << 10 // the largest frame of the server, a SYN_REPLY, is some 50 bytes
)

var errProtocol = errors.New("the server broke the SPDY protocol")

func appendHeader(b []byte, id spdy.StreamId, flags spdy.DataFlags, length int) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(id))
	return binary.BigEndian.AppendUint32(b, uint32(flags)<<24|uint32(length))
}

// errFinished says that the pod closed its side, which is no failure.
var errFinished = errors.New("the pod closed the connection")

// decoder reads the server's frames and gives out what is on the data stream, as it comes: a
// frame's length, which the server chooses, costs no memory. It can go on after a missed deadline.
type decoder struct {
	r    *bufio.Reader // only for what is short: large payloads pass it by
	pong func(frame []byte)

	stream spdy.StreamId // of the frame that is being read
	left   int64         // of its payload
	fin    bool          // it is the last of its stream
	err    error         // why reading has ended

	errorText bytes.Buffer

	framer *spdy.Framer // keeps the decompressor's state over frames
	frame  bytes.Buffer // what framer reads from
}

func newDecoder(r io.Reader, pong func([]byte)) *decoder {
	return &decoder{r: bufio.NewReaderSize(r, headerSize+maxControlSize), pong: pong}
}

// Read returns data, or why there is no more.
func (d *decoder) Read(p []byte) (int, error) {
	for {
		var n int
		var err error
		switch {
		case d.err != nil:
			return 0, d.err
		case len(p) == 0:
			return 0, nil
		case d.left > 0 && d.stream == dataStream:
			n, err = d.r.Read(p[:min(d.left, int64(len(p)))])
			d.left -= int64(n)
		case d.left > 0:
			err = d.readErrorText()
		case d.fin:
			err = errFinished
		default:
			err = d.header()
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			d.err = err
		}
		if n > 0 {
			return n, nil // an error comes again
		}
		if err != nil {
			return 0, err
		}
	}
}

// header reads the beginning of a frame, and control frames to their end.
func (d *decoder) header() error {
	h, err := d.r.Peek(headerSize)
	if err != nil {
		return err
	}
	first, second := binary.BigEndian.Uint32(h), binary.BigEndian.Uint32(h[4:])
	length := int64(second & 0xffffff)
	if first&controlBit != 0 {
		return d.control(length)
	}
	_, _ = d.r.Discard(headerSize)
	d.stream, d.left = spdy.StreamId(first), length
	switch d.stream {
	case dataStream:
		d.fin = spdy.DataFlags(second>>24)&spdy.DataFlagFin != 0
	case errorStream:
	default:
		return fmt.Errorf("%w: data on stream %d", errProtocol, d.stream)
	}
	return nil
}

// readErrorText keeps the beginning of what is on the error stream.
func (d *decoder) readErrorText() error {
	b, err := d.r.Peek(int(min(d.left, maxControlSize)))
	d.errorText.Write(b[:min(len(b), max(0, maxErrorText-d.errorText.Len()))])
	n, _ := d.r.Discard(len(b))
	d.left -= int64(n)
	return err
}

func (d *decoder) control(length int64) error {
	if length > maxControlSize {
		return fmt.Errorf("%w: a control frame of %d bytes", errProtocol, length)
	}
	b, err := d.r.Peek(headerSize + int(length))
	if err != nil {
		return err
	}
	raw := bytes.Clone(b)
	_, _ = d.r.Discard(len(b))
	d.frame.Reset()
	d.frame.Write(raw)
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
			d.pong(raw)
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
