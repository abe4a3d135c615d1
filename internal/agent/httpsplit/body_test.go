package httpsplit

import (
	"bufio"
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// pieces gives one piece for each Read, and notes how much has been written by then.
type pieces struct {
	left  []string
	out   *writes
	atAll []int
}

func (p *pieces) Read(b []byte) (int, error) {
	p.atAll = append(p.atAll, len(bytes.Join(*p.out, nil)))
	if len(p.left) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.left[0])
	if p.left[0] = p.left[0][n:]; p.left[0] == "" {
		p.left = p.left[1:]
	}
	return n, nil
}

type writes [][]byte

func (w *writes) Write(b []byte) (int, error) {
	*w = append(*w, bytes.Clone(b))
	return len(b), nil
}

// Chunks that have come together leave together, and nothing is held back while more is waited for.
func TestChunksTogether(t *testing.T) {
	const body = "5;x=y\r\nhello\r\n3\r\nyou\r\n0\r\nTrailer: 1\r\n\r\n"
	long := "2000\r\n" + strings.Repeat("x", 0x2000) + "\r\n"
	copied := func(copyTo func(io.Writer, *bufio.Reader) error, in ...string) (writes, []int, error) {
		var out writes
		p := &pieces{left: slices.Clone(in), out: &out}
		err := copyTo(&out, bufio.NewReaderSize(p, bufferSize))
		return out, p.atAll, err
	}
	together := func(dst io.Writer, src *bufio.Reader) error { return copyTogether(dst, src, nil) }
	inputs := [][]string{{body}, {long + long + body}, {body[:9], "", body[9:]}, {body[:20] + "x"}, {"5\r\nhello\n" + body}, {"5\r\nhel"}}
	for i := range body {
		inputs = append(inputs, []string{body[:i], body[i:]})
	}
	inputs = append(inputs, strings.Split(body, ""))
	for _, in := range inputs {
		want, at, wantErr := copied(copyChunks, in...)
		got, gotAt, err := copied(together, in...)
		if diff := cmp.Diff(string(bytes.Join(want, nil)), string(bytes.Join(got, nil))); diff != "" {
			t.Errorf("%.50q: copied (-one by one +together):\n%s", in, diff)
		}
		if !slices.Equal(at, gotAt) {
			t.Errorf("%.50q: written when more was waited for: %v together, %v one by one", in, gotAt, at)
		}
		if (err == nil) != (wantErr == nil) || err != nil && err.Error() != wantErr.Error() {
			t.Errorf("%.50q: %v together, %v one by one", in, err, wantErr)
		}
	}
	if got, _, _ := copied(together, body); len(got) != 1 {
		t.Errorf("%d writes for a body that came at once: %q", len(got), got)
	}
}
