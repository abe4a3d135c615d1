package resume

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Version of the protocol, see internal/tunnel/SPEC.md.
const Version = 1

// ErrMalformed is what the peer's bytes are refused with, wrapped.
var ErrMalformed = errors.New("malformed resume protocol")

// Frames: type, 3 bytes of length, and as many bytes.
const (
	headerSize = 4
	frameData  = 1
	frameAck   = 2
	frameEnd   = 3

	ackSize = headerSize + 8
	// maxData bounds the bytes of a data frame. It holds what the tunnel writes at once.
	maxData = largeSlab - ackSize - headerSize
)

func appendHeader(b []byte, kind byte, size int) []byte {
	return append(b, kind, byte(size>>16), byte(size>>8), byte(size))
}

func appendAck(b []byte, received uint64) []byte {
	return binary.BigEndian.AppendUint64(appendHeader(b, frameAck, 8), received)
}

// header of a frame in valid memory of ours, or of the peer's.
func header(b []byte) (kind byte, size int) {
	return b[0], int(b[1])<<16 | int(b[2])<<8 | int(b[3])
}

// frame is what next has read.
type frame struct {
	kind     byte   // 0 is none: only data was read
	received uint64 // of an acknowledgement
}

// inbound reads frames of one carrier. A failed read, also one that missed its deadline, loses nothing of
// what was read before.
type inbound struct {
	r     io.Reader
	hello int  // bytes of the peer's greeting that are still expected
	left  int  // bytes of the current data frame that have not been read
	ended bool // the peer has sent its last frame
	buf   [max(ackSize, helloSize)]byte
	have  int // bytes of buf
}

// next reads data into p, or another frame. With an empty p it stops before the data.
func (in *inbound) next(p []byte) (int, frame, error) {
	for {
		if in.left > 0 {
			if len(p) == 0 {
				return 0, frame{kind: frameData}, nil
			}
			n, err := in.r.Read(p[:min(len(p), in.left)])
			in.left -= n
			if n > 0 {
				err = nil // it comes again
			}
			return n, frame{}, err
		}
		if in.hello > 0 {
			if err := in.fill(helloSize); err != nil {
				return 0, frame{}, err
			}
			if err := checkAnswer(in.buf[:helloSize]); err != nil {
				return 0, frame{}, err
			}
			in.hello, in.have = 0, 0
		}
		if err := in.fill(headerSize); err != nil {
			return 0, frame{}, err
		}
		kind, size := header(in.buf[:])
		switch {
		case in.ended:
			return 0, frame{}, fmt.Errorf("%w: a frame of type %d after the end", ErrMalformed, kind)
		case kind == frameData && size > 0 && size <= maxData:
			in.left, in.have = size, 0
		case kind == frameAck && size == 8:
			if err := in.fill(ackSize); err != nil {
				return 0, frame{}, err
			}
			in.have = 0
			return 0, frame{frameAck, binary.BigEndian.Uint64(in.buf[headerSize:])}, nil
		case kind == frameEnd && size == 0:
			in.have, in.ended = 0, true
			return 0, frame{kind: frameEnd}, nil
		default:
			return 0, frame{}, fmt.Errorf("%w: a frame of type %d with %d bytes", ErrMalformed, kind, size)
		}
	}
}

// fill reads until buf has n bytes.
func (in *inbound) fill(n int) error {
	for in.have < n {
		m, err := in.r.Read(in.buf[in.have:n])
		in.have += m
		if err != nil && in.have < n {
			return err
		}
	}
	return nil
}

// The greeting: magic, version, and one byte for what the sender wants or answers.
const (
	magic     = "mirrord"
	helloSize = len(magic) + 2

	// What the client wants.
	wantNew    = 0
	wantResume = 1

	// What the server answers.
	answerOK      = 0
	answerUnknown = 1
	answerVersion = 2

	idSize    = 16
	nonceSize = 32
	proofSize = 32
	// The client's greeting that wants to resume, the server's that offers to, and both sides' last word.
	requestSize   = helloSize + idSize + nonceSize
	offerSize     = helloSize + nonceSize
	statementSize = 8 + proofSize
)

func appendHello(b []byte, word byte) []byte { return append(append(b, magic...), Version, word) }

// parseHello reads a greeting, of whatever version.
func parseHello(b []byte) (version, word byte, err error) {
	if len(b) != helloSize || !bytes.HasPrefix(b, []byte(magic)) {
		return 0, 0, fmt.Errorf("%w: the other side greets with %q; it may be of a version that can't resume", ErrMalformed, b)
	}
	return b[len(magic)], b[len(magic)+1], nil
}

// checkAnswer looks at the server's greeting.
func checkAnswer(b []byte) error {
	version, word, err := parseHello(b)
	switch {
	case err != nil:
		return err
	case version != Version || word == answerVersion:
		return &VersionError{Ours: Version, Theirs: int(version)}
	case word == answerUnknown:
		return errUnknown
	case word != answerOK:
		return fmt.Errorf("%w: an answer of kind %d", ErrMalformed, word)
	}
	return nil
}

func appendStatement(b []byte, received uint64, proof []byte) []byte {
	return append(binary.BigEndian.AppendUint64(b, received), proof...)
}

// statement is the last word of a side: how much it has received, and its proof.
func statement(b []byte) (received uint64, proof []byte) { return binary.BigEndian.Uint64(b), b[8:] }
