package targetfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// ErrMalformed is wrapped by every error about bytes that do not follow the protocol.
var ErrMalformed = errors.New("malformed message about files")

// maxFrame is the longest frame behind its length: a piece of a file and what stands before it.
const maxFrame = MaxData + 64<<10

// op is what a request asks for.
type op uint8

const (
	opStat op = 1 + iota
	opStatfs
	opAccess
	opReadlink
	opOpen
	opMkdir
	opRemove
	opRename
	opSymlink
	opLink
	opSetAttr
	opGetxattr
	opListxattr
	opRead
	opWrite
	opFileStat
	opFileSetAttr
	opSync
	opReadDir
	opClose // has no reply
	opEnd
)

var opNames = [opEnd]string{
	opStat: "stat", opStatfs: "statfs", opAccess: "access", opReadlink: "readlink", opOpen: "open", opMkdir: "mkdir", opRemove: "remove",
	opRename: "rename", opSymlink: "symlink", opLink: "link", opSetAttr: "setattr", opGetxattr: "getxattr", opListxattr: "listxattr",
	opRead: "read", opWrite: "write", opFileStat: "fstat", opFileSetAttr: "fsetattr", opSync: "sync", opReadDir: "readdir", opClose: "close",
}

func (o op) String() string {
	if o < opEnd && opNames[o] != "" {
		return opNames[o]
	}
	return fmt.Sprintf("op(%d)", uint8(o))
}

// request is one request. Which fields travel depends on the op: see [request.fields].
type request struct {
	id     uint32
	op     op
	handle uint32
	path   string
	second string // the other path of a rename or link, a link's content, an attribute's name
	follow bool   // or dir, or dataOnly
	flags  uint32
	perm   uint32
	off    int64 // or a cursor
	size   uint32
	change Change
	data   []byte
}

// fields passes the request's fields to c in the order in which they travel.
func (r *request) fields(c *codec) {
	switch r.op {
	case opStat, opListxattr:
		c.string(&r.path)
		c.bool(&r.follow)
	case opStatfs, opReadlink:
		c.string(&r.path)
	case opAccess:
		c.string(&r.path)
		c.u32(&r.flags)
		c.bool(&r.follow)
	case opOpen:
		c.string(&r.path)
		c.u32(&r.flags)
		c.u32(&r.perm)
	case opMkdir:
		c.string(&r.path)
		c.u32(&r.perm)
	case opRemove:
		c.string(&r.path)
		c.bool(&r.follow)
	case opRename:
		c.string(&r.path)
		c.string(&r.second)
		c.u32(&r.flags)
	case opSymlink, opLink:
		c.string(&r.path)
		c.string(&r.second)
	case opSetAttr:
		c.string(&r.path)
		c.bool(&r.follow)
		r.change.fields(c)
	case opGetxattr:
		c.string(&r.path)
		c.string(&r.second)
		c.bool(&r.follow)
	case opRead:
		c.u32(&r.handle)
		c.i64(&r.off)
		c.u32(&r.size)
	case opWrite:
		c.u32(&r.handle)
		c.i64(&r.off)
		c.rest(&r.data)
	case opFileStat, opClose:
		c.u32(&r.handle)
	case opFileSetAttr:
		c.u32(&r.handle)
		r.change.fields(c)
	case opSync:
		c.u32(&r.handle)
		c.bool(&r.follow)
	case opReadDir:
		c.u32(&r.handle)
		c.i64(&r.off)
	default:
		c.fail("op %d", uint8(r.op))
	}
}

// check refuses what parses and no client would send.
func (r *request) check() error {
	switch {
	case len(r.path) > MaxPath || len(r.second) > MaxPath:
		return fmt.Errorf("%w: a path of more than %d bytes", ErrMalformed, MaxPath)
	case r.size > MaxData || len(r.data) > MaxData:
		return fmt.Errorf("%w: a piece of more than %d bytes", ErrMalformed, MaxData)
	}
	return nil
}

// reply answers the request with the same id. The fields behind errno travel only when it is 0, reason only when it is not.
type reply struct {
	id      uint32
	errno   uint16
	reason  string
	attr    Attr
	statfs  Statfs
	text    string
	handle  uint32
	count   uint32
	entries []Entry
	names   []string
	data    []byte
}

func (r *reply) fields(o op, c *codec) {
	if r.errno != 0 {
		c.string(&r.reason)
		return
	}
	switch o {
	case opStat, opFileStat:
		r.attr.fields(c)
	case opStatfs:
		r.statfs.fields(c)
	case opReadlink:
		c.string(&r.text)
	case opOpen:
		c.u32(&r.handle)
		r.attr.fields(c)
		c.rest(&r.data)
	case opListxattr:
		list(c, &r.names, 2, func(c *codec, name *string) { c.string(name) })
	case opWrite:
		c.u32(&r.count)
	case opReadDir:
		list(c, &r.entries, 19, func(c *codec, e *Entry) {
			c.string(&e.Name)
			c.u64(&e.Ino)
			c.u8(&e.Type)
			c.i64(&e.Next)
		})
	case opRead, opGetxattr:
		c.rest(&r.data)
	}
}

func (a *Attr) fields(c *codec) {
	c.u32(&a.Mode)
	for _, v := range []*uint64{&a.Ino, &a.Dev, &a.Nlink, &a.Rdev, &a.Blocks} {
		c.u64(v)
	}
	c.u32(&a.UID)
	c.u32(&a.GID)
	c.i64(&a.Size)
	c.u32(&a.Blksize)
	for _, t := range []*Timespec{&a.Atime, &a.Mtime, &a.Ctime, &a.Btime} {
		t.fields(c)
	}
}

func (t *Timespec) fields(c *codec) {
	c.i64(&t.Sec)
	c.u32(&t.Nsec)
}

func (s *Statfs) fields(c *codec) {
	for _, v := range []*uint64{&s.Type, &s.Bsize, &s.Frsize, &s.Blocks, &s.Bfree, &s.Bavail, &s.Files, &s.Ffree, &s.Namelen, &s.Flags} {
		c.u64(v)
	}
}

// fields: a byte of bits says which follow.
func (ch *Change) fields(c *codec) {
	var set uint8
	for i, isSet := range []bool{ch.Mode != nil, ch.UID != nil, ch.GID != nil, ch.Size != nil, ch.Atime != nil, ch.Mtime != nil} {
		if isSet {
			set |= 1 << i
		}
	}
	c.u8(&set)
	if set >= 1<<6 {
		c.fail("a change of unknown things")
		return
	}
	for i, p := range []**uint32{&ch.Mode, &ch.UID, &ch.GID} {
		if optional(p, set>>i) {
			c.u32(*p)
		}
	}
	if optional(&ch.Size, set>>3) {
		c.i64(ch.Size)
	}
	for i, p := range []**Timespec{&ch.Atime, &ch.Mtime} {
		if optional(p, set>>(4+i)) {
			(*p).fields(c)
		}
	}
}

// optional makes room for what is set.
func optional[T any](p **T, set uint8) bool {
	if set&1 == 0 {
		return false
	}
	if *p == nil {
		*p = new(T)
	}
	return true
}

// codec writes fields, or reads them: the same code says both. Numbers are big endian.
type codec struct {
	b       []byte
	reading bool
	err     error
}

func (c *codec) fail(format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf("%w: "+format, append([]any{ErrMalformed}, args...)...)
	}
}

// next is the next n bytes that are read, or nil.
func (c *codec) next(n int) []byte {
	if c.err != nil {
		return nil
	}
	if len(c.b) < n {
		c.fail("it is too short")
		return nil
	}
	b := c.b[:n]
	c.b = c.b[n:]
	return b
}

func (c *codec) u8(v *uint8) {
	if !c.reading {
		c.b = append(c.b, *v)
	} else if b := c.next(1); b != nil {
		*v = b[0]
	}
}

func (c *codec) u16(v *uint16) {
	if !c.reading {
		c.b = binary.BigEndian.AppendUint16(c.b, *v)
	} else if b := c.next(2); b != nil {
		*v = binary.BigEndian.Uint16(b)
	}
}

func (c *codec) u32(v *uint32) {
	if !c.reading {
		c.b = binary.BigEndian.AppendUint32(c.b, *v)
	} else if b := c.next(4); b != nil {
		*v = binary.BigEndian.Uint32(b)
	}
}

func (c *codec) u64(v *uint64) {
	if !c.reading {
		c.b = binary.BigEndian.AppendUint64(c.b, *v)
	} else if b := c.next(8); b != nil {
		*v = binary.BigEndian.Uint64(b)
	}
}

func (c *codec) i64(v *int64) {
	u := uint64(*v)
	c.u64(&u)
	*v = int64(u)
}

func (c *codec) bool(v *bool) {
	var b uint8
	if *v {
		b = 1
	}
	c.u8(&b)
	if b > 1 {
		c.fail("a truth value of %d", b)
	}
	*v = b == 1
}

// string is 2 bytes of length and the bytes.
func (c *codec) string(v *string) {
	n := uint16(min(len(*v), 1<<16-1))
	if int(n) != len(*v) {
		c.fail("a text of %d bytes", len(*v))
	}
	c.u16(&n)
	if !c.reading {
		c.b = append(c.b, *v...)
	} else if b := c.next(int(n)); b != nil {
		*v = string(b)
	}
}

// rest is all that is left. What was read is not a copy.
func (c *codec) rest(v *[]byte) {
	if !c.reading {
		c.b = append(c.b, *v...)
	} else if c.err == nil {
		*v, c.b = c.b, nil
	}
}

// list is 4 bytes of count and the elements, each of at least size bytes.
func list[T any](c *codec, v *[]T, size int, element func(*codec, *T)) {
	n := uint32(len(*v))
	c.u32(&n)
	if c.reading {
		if c.err != nil || int64(n)*int64(size) > int64(len(c.b)) {
			c.fail("a list of %d", n)
			return
		}
		*v = make([]T, n)
	}
	for i := range *v {
		element(c, &(*v)[i])
	}
}

// appendRequest appends the request's frame: 4 bytes of length, 4 of id, 1 of op, the fields.
func appendRequest(b []byte, r *request) ([]byte, error) {
	start := len(b)
	b = binary.BigEndian.AppendUint32(append(b, 0, 0, 0, 0), r.id)
	c := codec{b: append(b, byte(r.op))}
	r.fields(&c)
	return finish(&c, start)
}

// appendReply appends the frame of a reply: 4 bytes of length, 4 of id, 2 of errno, the fields.
func appendReply(b []byte, o op, r *reply) ([]byte, error) {
	start := len(b)
	b = binary.BigEndian.AppendUint32(append(b, 0, 0, 0, 0), r.id)
	c := codec{b: binary.BigEndian.AppendUint16(b, r.errno)}
	r.fields(o, &c)
	return finish(&c, start)
}

func finish(c *codec, start int) ([]byte, error) {
	n := len(c.b) - start - 4
	if n > maxFrame {
		c.fail("a frame of %d bytes", n)
	}
	binary.BigEndian.PutUint32(c.b[start:], uint32(n))
	return c.b, c.err
}

// parseRequest reads a frame behind its length. Its data is not a copy.
func parseRequest(b []byte) (*request, error) {
	c := codec{b: b, reading: true}
	r := &request{}
	c.u32(&r.id)
	c.u8((*uint8)(&r.op))
	r.fields(&c)
	if len(c.b) > 0 {
		c.fail("%d bytes behind a request", len(c.b))
	}
	if c.err == nil {
		c.err = r.check()
	}
	return r, c.err
}

// parseHead reads id and errno of a reply; parseBody the rest. The data is not a copy.
func parseHead(b []byte) (r *reply, body []byte, err error) {
	c := codec{b: b, reading: true}
	r = &reply{}
	c.u32(&r.id)
	c.u16(&r.errno)
	return r, c.b, c.err
}

func (r *reply) parseBody(o op, b []byte) error {
	c := codec{b: b, reading: true}
	r.fields(o, &c)
	if len(c.b) > 0 {
		c.fail("%d bytes behind a reply", len(c.b))
	}
	return c.err
}

// readFrame reads one frame, into buf if that has room. The error is io.EOF at the end between two frames.
func readFrame(r io.Reader, buf []byte) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxFrame {
		return nil, fmt.Errorf("%w: a frame of %d bytes", ErrMalformed, n)
	}
	if int(n) > cap(buf) {
		buf = make([]byte, n)
	}
	buf = buf[:n]
	if _, err := io.ReadFull(r, buf); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return buf, nil
}
