package wire

import (
	"encoding/binary"
	"fmt"
	"io"
)

const (
	// MaxUnixName is the longest name of a Unix socket, in bytes: the room in struct sockaddr_un
	// (unix(7)).
	MaxUnixName = 108
	// MaxPacket is the longest message of a SOCK_SEQPACKET connection, in bytes. It is more than
	// Linux sends without being told to (net.core.wmem_max).
	MaxPacket = 256 << 10
)

// UnixType is the type of a Unix socket.
type UnixType uint8

// The types that connect.
const (
	// UnixStream connections carry raw bytes.
	UnixStream UnixType = 1
	// UnixSeqpacket connections carry messages, see [ReadPacket].
	UnixSeqpacket UnixType = 2
)

// Unix asks the agent for a connection to a Unix socket of the target.
type Unix struct {
	Type UnixType
	// Name is an absolute path in the target's file system, or "@" and an abstract name, which
	// may have any bytes.
	Name string
}

// UnixReply answers [Unix].
type UnixReply struct {
	// Errno is what connect(2) failed with in the target, or 0.
	Errno Errno
}

// WriteUnix writes the header of a unix stream, kind included.
func WriteUnix(w io.Writer, u Unix) error {
	if err := u.check(); err != nil {
		return err
	}
	return write(w, append([]byte{byte(KindUnix), byte(u.Type), byte(len(u.Name))}, u.Name...))
}

// ReadUnix reads what follows the kind of a unix stream.
func ReadUnix(r io.Reader) (Unix, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return Unix{}, noEOF(err)
	}
	if head[1] > MaxUnixName {
		return Unix{}, fmt.Errorf("%w: a socket's name of %d bytes", ErrMalformed, head[1])
	}
	name := make([]byte, head[1])
	if _, err := io.ReadFull(r, name); err != nil {
		return Unix{}, noEOF(err)
	}
	u := Unix{Type: UnixType(head[0]), Name: string(name)}
	return u, u.check()
}

func (u Unix) check() error {
	switch {
	case u.Type != UnixStream && u.Type != UnixSeqpacket:
		return fmt.Errorf("%w: type %d of a Unix socket", ErrMalformed, u.Type)
	case len(u.Name) < 2 || len(u.Name) > MaxUnixName:
		return fmt.Errorf("%w: a socket's name of %d bytes", ErrMalformed, len(u.Name))
	case u.Name[0] != '@' && u.Name[0] != '/':
		return fmt.Errorf("%w: a socket's name that starts with %q", ErrMalformed, u.Name[0])
	}
	return nil
}

// WriteUnixReply writes the agent's answer to a unix stream.
func WriteUnixReply(w io.Writer, r UnixReply) error {
	return write(w, binary.BigEndian.AppendUint16(nil, uint16(r.Errno)))
}

// ReadUnixReply reads the agent's answer to a unix stream.
func ReadUnixReply(r io.Reader) (UnixReply, error) {
	e, err := readErrno(r)
	return UnixReply{Errno: e}, err
}

// WritePacket writes one message of a SOCK_SEQPACKET connection: 4 bytes of length, then the
// message.
func WritePacket(w io.Writer, p []byte) error {
	if len(p) > MaxPacket {
		return fmt.Errorf("%w: a message of %d bytes", ErrMalformed, len(p))
	}
	return write(w, append(binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(p)), uint32(len(p))), p...))
}

// ReadPacket reads what WritePacket has written, into buf if that has room. The error is
// io.EOF at the end between two messages.
func ReadPacket(r io.Reader, buf []byte) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > MaxPacket {
		return nil, fmt.Errorf("%w: a message of %d bytes", ErrMalformed, n)
	}
	if int(n) > cap(buf) {
		buf = make([]byte, n)
	}
	buf = buf[:n]
	if _, err := io.ReadFull(r, buf); err != nil {
		return nil, noEOF(err)
	}
	return buf, nil
}
