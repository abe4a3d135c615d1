package httpsplit

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/mirrord-go/mirrord/internal/httpfilter"
)

func TestSift(t *testing.T) {
	const (
		mine    = "POST /1 HTTP/1.1\r\nHost: a\r\nx-user:  me\r\nContent-Length: 3\r\n\r\none"
		chunks  = "PUT /2 HTTP/1.1\r\nX-User: me\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ntwo\r\n0\r\n\r\n"
		others  = "POST /3 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nthree"
		upgrade = "GET /4 HTTP/1.1\r\nUpgrade: x\r\nConnection: Upgrade\r\n"
		me      = "X-User: me\r\n"
	)
	f, err := httpfilter.Compile(httpfilter.Spec{Rule: httpfilter.Rule{Header: "^x-user: me$"}})
	if err != nil {
		t.Fatal(err)
	}
	choose := func(r *httpfilter.Request) bool { ok, _ := f.Match(r); return ok }
	for _, tt := range []struct {
		name, in, out string
		err           error
	}{
		{"nothing", "", "", nil},
		{"none of them", others + others, "", nil},
		{"some of them", others + mine + others + chunks + mine + others, mine + chunks + mine, nil},
		{"a chosen one that is cut", mine[:len(mine)-1], mine[:len(mine)-1], nil},
		{"a chosen upgrade", mine + upgrade + me + "\r\ndata " + others, mine + upgrade + me + "\r\ndata " + others, nil},
		{"another's upgrade", mine + upgrade + "\r\n" + mine, mine, nil},
		{"no HTTP", "\x16\x03\x01", "", ErrNotSifted},
		{"no HTTP after a request", mine + "\x16\x03\x01\r\n\r\n", mine, ErrNotSifted},
		{"almost HTTP/2", preface[:20] + "XX\r\n", "", ErrNotSifted},
		{"a broken chunk", strings.Replace(chunks, "3\r\n", "x\r\n", 1), chunks[:strings.Index(chunks, "3\r\n")] + "x\r\n", ErrNotSifted},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			opened := 0
			open := func() (io.Writer, error) { opened++; return &out, nil }
			if err := Sift(open, iotest.OneByteReader(strings.NewReader(tt.in)), choose, nil); !errors.Is(err, tt.err) || (err == nil) != (tt.err == nil) {
				t.Errorf("error %v, want %v", err, tt.err)
			}
			if out.String() != tt.out {
				t.Errorf("got %q, want %q", out.String(), tt.out)
			}
			if want := min(1, len(tt.out)); opened != want {
				t.Errorf("opened %d times", opened)
			}
		})
	}
	refused := errors.New("refused")
	err = Sift(func() (io.Writer, error) { return nil, refused }, strings.NewReader(mine), choose, nil)
	if !errors.Is(err, refused) {
		t.Errorf("error %v", err)
	}
}
