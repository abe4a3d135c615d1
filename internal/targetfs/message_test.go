package targetfs

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var compare = cmp.Options{cmp.AllowUnexported(request{}, reply{}), cmpopts.EquateEmpty()}

// requests have one of each kind.
func requests() []*request {
	when := Timespec{-1, Now}
	change := Change{Mode: new(uint32(0o644)), GID: new(uint32(7)), Size: new(int64(1 << 40)), Mtime: &when}
	return []*request{
		{op: opStat, path: "/a", follow: true},
		{op: opStatfs, path: "/"},
		{op: opAccess, path: "/a", flags: 4},
		{op: opReadlink, path: "/l"},
		{op: opOpen, path: "/a", flags: uint32(Read | Create), perm: 0o600},
		{op: opMkdir, path: "/d", perm: 0o755},
		{op: opRemove, path: "/d", follow: true},
		{op: opRename, path: "/a", second: "/b", flags: 1},
		{op: opSymlink, path: "/l", second: "a"},
		{op: opLink, path: "/b", second: "/a"},
		{op: opSetAttr, path: "/a", change: change},
		{op: opGetxattr, path: "/a", second: "user.x"},
		{op: opListxattr, path: "/a"},
		{op: opRead, handle: 3, off: 1 << 33, size: MaxData},
		{op: opWrite, handle: 3, off: -1, data: []byte("data")},
		{op: opFileStat, handle: 3},
		{op: opFileSetAttr, handle: 3, change: Change{UID: new(uint32(0)), Atime: &Timespec{}}},
		{op: opSync, handle: 3, follow: true},
		{op: opReadDir, handle: 3, off: 99},
		{op: opClose, handle: 1<<32 - 1},
	}
}

func TestRequests(t *testing.T) {
	seen := map[op]bool{}
	for i, want := range requests() {
		seen[want.op] = true
		want.id = uint32(i)
		b, err := appendRequest(nil, want)
		if err != nil {
			t.Fatal(err)
		}
		frame, err := readFrame(bytes.NewReader(b), nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := parseRequest(frame)
		if diff := cmp.Diff(want, got, compare); diff != "" || err != nil {
			t.Errorf("%v: %v\n%s", want.op, err, diff)
		}
		for n := range frame {
			if _, err := parseRequest(frame[:n]); want.op != opWrite && !errors.Is(err, ErrMalformed) {
				t.Errorf("%d bytes of %v: %v", n, want.op, err)
			}
		}
	}
	if len(seen) != int(opEnd)-1 {
		t.Errorf("%d of %d kinds of requests", len(seen), opEnd-1)
	}
}

func TestMalformed(t *testing.T) {
	for name, b := range map[string][]byte{
		"no op": {0, 0, 0, 1, 0}, "an unknown op": {0, 0, 0, 1, byte(opEnd), 0}, "more": {0, 0, 0, 1, byte(opClose), 0, 0, 0, 1, 9},
		"a truth value": {0, 0, 0, 1, byte(opStat), 0, 1, '/', 2}, "a change": {0, 0, 0, 1, byte(opFileSetAttr), 0, 0, 0, 1, 64},
		"a large piece": {0, 0, 0, 1, byte(opRead), 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1},
	} {
		if r, err := parseRequest(b); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
	if _, err := readFrame(bytes.NewReader([]byte{0x7f, 0, 0, 0}), nil); !errors.Is(err, ErrMalformed) {
		t.Errorf("a frame that is too long: %v", err)
	}
	if _, err := readFrame(bytes.NewReader([]byte{0, 0, 0, 9, 1}), nil); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("half a frame: %v", err)
	}
	var r reply
	if err := r.parseBody(opReadDir, []byte{0xff, 0xff, 0xff, 0xff}); !errors.Is(err, ErrMalformed) {
		t.Errorf("a list of four billion: %v", err)
	}
	if _, err := appendRequest(nil, &request{op: opStat, path: string(make([]byte, 1<<16))}); err == nil {
		t.Error("a text that is too long was written")
	}
}

// replies have one of each kind.
func replies() map[op]*reply {
	a := Attr{Mode: 0o100644, Ino: 1, Dev: 2, Nlink: 3, UID: 4, GID: 5, Rdev: 6, Size: 7, Blksize: 8, Blocks: 9, Atime: Timespec{1, 2}, Btime: Timespec{-3, 4}}
	return map[op]*reply{
		opStat: {attr: a}, opFileStat: {attr: a}, opStatfs: {statfs: Statfs{Type: 1, Bsize: 2, Flags: 3}}, opReadlink: {text: "to"},
		opOpen: {handle: 9, attr: a, data: []byte("beginning")}, opListxattr: {names: []string{"user.a", ""}}, opWrite: {count: 5},
		opReadDir: {entries: []Entry{{"a", 1, 8, 2}, {"b", 2, 4, 3}}}, opRead: {data: []byte("x")}, opGetxattr: {data: []byte{}}, opMkdir: {}, opSync: {errno: 5, reason: "why"},
	}
}

func TestReplies(t *testing.T) {
	for o, want := range replies() {
		want.id = 77
		b, err := appendReply(nil, o, want)
		if err != nil {
			t.Fatal(err)
		}
		got, body, err := parseHead(b[4:])
		if err == nil {
			err = got.parseBody(o, body)
		}
		if diff := cmp.Diff(want, got, compare); diff != "" || err != nil {
			t.Errorf("%v: %v\n%s", o, err, diff)
		}
	}
}

// FuzzRequest: what parses is written again as it was.
func FuzzRequest(f *testing.F) {
	for _, r := range requests() {
		b, err := appendRequest(nil, r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b[4:])
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		r, err := parseRequest(in)
		if err != nil {
			return
		}
		b, err := appendRequest(nil, r)
		if err != nil || !bytes.Equal(b[4:], in) {
			t.Errorf("%x became %x, %v", in, b, err)
		}
	})
}

// FuzzReply: as FuzzRequest, for each kind of reply.
func FuzzReply(f *testing.F) {
	for o, r := range replies() {
		b, err := appendReply(nil, o, r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(o), b[4:])
	}
	f.Fuzz(func(t *testing.T, o uint8, in []byte) {
		r, body, err := parseHead(in)
		if err != nil || r.parseBody(op(o), body) != nil {
			return
		}
		b, err := appendReply(nil, op(o), r)
		if err != nil || !bytes.Equal(b[4:], in) {
			t.Errorf("%x became %x, %v", in, b, err)
		}
	})
}

// FuzzFrame: a stream of anything gives frames, or an error, and no more memory than it has bytes or a frame may.
func FuzzFrame(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1, 5, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		for {
			b, err := readFrame(r, nil)
			if err != nil {
				break
			}
			if len(b) > maxFrame {
				t.Fatal(len(b))
			}
		}
	})
}

func TestErrno(t *testing.T) {
	if got := Errno(&Error{Op: "open", Path: "/x", Errno: 13}); got != 13 {
		t.Error(got)
	}
	if Errno(nil) != 0 || Errno(io.EOF) != errIO {
		t.Error(Errno(io.EOF))
	}
}
