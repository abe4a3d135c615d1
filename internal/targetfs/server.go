package targetfs

import (
	"bufio"
	"context"
	"errors"
	"io"
	"sync"
)

const (
	// maxServed bounds the requests of one connection that are served at once, and so its memory: each holds a piece of a file at most twice.
	maxServed = 32
	// MaxHandles bounds the files that one connection has open; one more fails with EMFILE.
	MaxHandles = 1024
	// firstRead is how much of a file comes along with its handle, so that small files need no further request.
	firstRead = 32 << 10
)

// Serve answers the requests that come over conn, a stream of kind files behind its first byte, until it ends, ctx ends or something comes that
// is no request. It closes conn, and all files that were opened, before it returns. The error is nil at the end of conn or ctx.
func Serve(ctx context.Context, conn io.ReadWriteCloser, fs FS) error {
	ctx, cancel := context.WithCancel(ctx)
	s := &server{fs: fs, conn: conn, handles: map[uint32]*handle{}}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	err := s.serve(ctx)
	if ctx.Err() != nil || errors.Is(err, io.EOF) {
		err = nil
	}
	cancel()
	stop()
	_ = conn.Close()
	s.running.Wait()
	s.closeAll()
	return err
}

type server struct {
	fs      FS
	conn    io.ReadWriteCloser
	running sync.WaitGroup

	writing sync.Mutex // one frame at a time

	mu      sync.Mutex
	last    uint32
	opening int // opens under way
	handles map[uint32]*handle
}

// handle is an open file. It is closed when nobody uses it.
type handle struct {
	file  File
	users int // guarded by server.mu; the table is one
}

func (s *server) serve(ctx context.Context) error {
	slots := make(chan struct{}, maxServed)
	in := bufio.NewReaderSize(s.conn, bufferSize)
	for {
		frame, err := readFrame(in, nil)
		if err != nil {
			return err
		}
		r, err := parseRequest(frame)
		if err != nil {
			return err
		}
		if r.op == opClose {
			// Before the next request, which may open one more.
			h := s.forget(r.handle)
			if h == nil {
				continue
			}
			slots <- struct{}{}
			s.running.Go(func() {
				defer func() { <-slots }()
				s.leave(h)
			})
			continue
		}
		slots <- struct{}{}
		s.running.Go(func() {
			defer func() { <-slots }()
			s.answer(r.op, s.reply(ctx, r))
		})
	}
}

// answer writes a reply. When that fails, reading will too.
func (s *server) answer(o op, r *reply) {
	b, err := appendReply(make([]byte, 0, 256+len(r.data)), o, r)
	if err != nil {
		b, _ = appendReply(nil, o, &reply{id: r.id, errno: uint16(errIO)}) // always short enough
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	if _, err := s.conn.Write(b); err != nil {
		_ = s.conn.Close()
	}
}

func (s *server) reply(ctx context.Context, r *request) *reply {
	reply := &reply{id: r.id}
	if err := s.do(ctx, r, reply); err != nil {
		reply.errno = uint16(Errno(err))
		if e, ok := errors.AsType[*Error](err); ok {
			reply.reason = e.Reason[:min(len(e.Reason), maxReason)]
		}
	}
	return reply
}

// maxReason bounds the text of an error, in bytes.
const maxReason = 1024

// do carries a request out.
func (s *server) do(ctx context.Context, r *request, to *reply) (err error) {
	switch r.op {
	case opStat:
		to.attr, err = s.fs.Stat(ctx, r.path, r.follow)
	case opStatfs:
		to.statfs, err = s.fs.Statfs(ctx, r.path)
	case opAccess:
		err = s.fs.Access(ctx, r.path, r.flags, r.follow)
	case opReadlink:
		to.text, err = s.fs.Readlink(ctx, r.path)
	case opOpen:
		err = s.open(ctx, r, to)
	case opMkdir:
		err = s.fs.Mkdir(ctx, r.path, r.perm)
	case opRemove:
		err = s.fs.Remove(ctx, r.path, r.follow)
	case opRename:
		err = s.fs.Rename(ctx, r.path, r.second, RenameFlags(r.flags))
	case opSymlink:
		err = s.fs.Symlink(ctx, r.second, r.path)
	case opLink:
		err = s.fs.Link(ctx, r.second, r.path)
	case opSetAttr:
		err = s.fs.SetAttr(ctx, r.path, r.follow, r.change)
	case opGetxattr:
		to.data, err = s.fs.Getxattr(ctx, r.path, r.second, r.follow)
	case opListxattr:
		to.names, err = s.fs.Listxattr(ctx, r.path, r.follow)
	default:
		err = s.doFile(ctx, r, to)
	}
	return err
}

// doFile carries out a request about an open file.
func (s *server) doFile(ctx context.Context, r *request, to *reply) (err error) {
	h := s.use(r.handle)
	if h == nil {
		return errBADF
	}
	defer s.leave(h)
	switch r.op {
	case opRead:
		to.data = make([]byte, r.size)
		var n int
		n, err = h.file.ReadAt(ctx, to.data, r.off)
		if n > 0 {
			err = nil // The next request meets it.
		}
		to.data = to.data[:n]
	case opWrite:
		var n int
		n, err = h.file.WriteAt(ctx, r.data, r.off)
		if n > 0 {
			err = nil
		}
		to.count = uint32(n)
	case opFileStat:
		to.attr, err = h.file.Stat(ctx)
	case opFileSetAttr:
		err = h.file.SetAttr(ctx, r.change)
	case opSync:
		err = h.file.Sync(ctx, r.follow)
	case opReadDir:
		to.entries, err = h.file.ReadDir(ctx, r.off)
	default:
		err = errNOSYS
	}
	return err
}

func (s *server) open(ctx context.Context, r *request, to *reply) error {
	if OpenFlags(r.flags)&^allFlags != 0 {
		return errINVAL
	}
	s.mu.Lock()
	if len(s.handles)+s.opening >= MaxHandles {
		s.mu.Unlock()
		return errMFILE
	}
	s.opening++
	s.mu.Unlock()
	f, err := s.fs.Open(ctx, r.path, OpenFlags(r.flags), r.perm)
	if err == nil {
		to.attr = f.Attr()
		if OpenFlags(r.flags)&(Read|Write) == Read && to.attr.Mode&typeMask == typeRegular {
			to.data = s.beginning(ctx, f, to.attr.Size)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opening--
	if err != nil {
		return err
	}
	for {
		s.last++
		if s.last != 0 && s.handles[s.last] == nil {
			break
		}
	}
	s.handles[s.last] = &handle{file: f, users: 1}
	to.handle = s.last
	return nil
}

// The type of a file in its mode.
const (
	typeMask    = 0o170000
	typeRegular = 0o100000
)

// beginning reads what comes along with a handle. What fails is met by reading again.
func (s *server) beginning(ctx context.Context, f File, size int64) []byte {
	if size <= 0 {
		return nil // Files of /proc have no size either, and cost something to read.
	}
	b := make([]byte, min(size, firstRead))
	n, err := f.ReadAt(ctx, b, 0)
	if err != nil {
		return nil
	}
	return b[:n]
}

// use returns the handle, for one more user, or nil.
func (s *server) use(n uint32) *handle {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.handles[n]
	if h != nil {
		h.users++
	}
	return h
}

// forget takes the handle out of the table. The caller is its user in the table's place.
func (s *server) forget(n uint32) *handle {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.handles[n]
	delete(s.handles, n)
	return h
}

func (s *server) leave(h *handle) {
	s.mu.Lock()
	h.users--
	last := h.users == 0
	s.mu.Unlock()
	if last {
		_ = h.file.Close()
	}
}

func (s *server) closeAll() {
	s.mu.Lock()
	handles := s.handles
	s.handles = nil
	s.mu.Unlock()
	for _, h := range handles {
		s.leave(h)
	}
}
