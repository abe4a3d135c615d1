package httpsplit

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/mirrord-go/mirrord/internal/httpfilter"
)

func TestSift(t *testing.T) {
	const (
		mine    = "POST /1 HTTP/1.1\r\nHost: a\r\nx-user:  me\r\nContent-Length: 3\r\n\r\none"
		chunks  = "PUT /2 HTTP/1.1\r\nX-User: me\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ntwo\r\n0\r\n\r\n"
		others  = "POST /3 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nthree"
		upgrade = "GET /4 HTTP/1.1\r\nUpgrade: x\r\nConnection: Upgrade\r\n"
		offer   = "GET /5 HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAA\r\n"
		plain   = "GET /5 HTTP/1.1\r\nHost: a\r\n"
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
		{"another's upgrade", mine + upgrade + "\r\ndata " + mine, mine, nil},
		{"another's refused upgrade", mine + upgrade + "\r\n" + mine + others, mine + mine, nil},
		{"a chosen one that is refused", upgrade + me + "\r\n" + others + mine, upgrade + me + "\r\n" + mine, nil},
		{"a chosen one with a body", upgrade + me + "Content-Length: 3\r\n\r\none" + others, upgrade + me + "Content-Length: 3\r\n\r\none", nil},
		{"nothing behind an upgrade", upgrade + me + "\r\n", upgrade + me + "\r\n", nil},
		{"the beginning of data", upgrade + me + "\r\nda", upgrade + me + "\r\nda", nil},
		{"a chosen offer of HTTP/2", offer + me + "\r\n" + others + mine, plain + me + "\r\n" + mine, nil},
		{"another's offer of HTTP/2", offer + "\r\n" + mine, mine, nil},
		{"an accepted offer", offer + "\r\n" + preface, "", nil},
		{"an accepted offer, too late", mine + offer + "\r\n" + preface, mine, ErrNotSifted},
		{"connect", "CONNECT a:1 HTTP/1.1\r\n\r\n" + mine, "", nil},
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

// TestSiftSlowBody: a client that is gone in the middle of a body keeps of the memory for bodies what it has sent, and one that was only
// slow goes on as it is.
func TestSiftSlowBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, client := net.Pipe()
		budget := NewBudget(1 << 20)
		left := func() int64 {
			synctest.Wait()
			budget.mu.Lock()
			defer budget.mu.Unlock()
			return budget.left
		}
		var out bytes.Buffer
		done := make(chan error)
		go func() {
			done <- Sift(func() (io.Writer, error) { return &out, nil }, src, func(r *httpfilter.Request) bool {
				for range 9 { // as many rules
					if body, ok := r.Body(100, time.Millisecond); ok && string(body) == "mine" {
						return true
					}
				}
				return false
			}, budget)
		}()
		send := func(text string) {
			if _, err := io.WriteString(client, text); err != nil {
				t.Error(err)
			}
		}
		const head, mine = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n", "mine"
		send(head + mine[:2])
		const kept = 1<<20 - 2 // what has come
		if n := left(); n >= kept {
			t.Errorf("%d bytes are left while it waits", n)
		}
		time.Sleep(copyTime)
		if n := left(); n != kept {
			t.Errorf("%d bytes are left, want %d", n, kept)
		}
		time.Sleep(time.Hour)
		send(mine[2:] + head + mine)
		_ = client.Close()
		if err := <-done; err != nil || out.String() != head+mine {
			t.Errorf("%v, got %q", err, out.String())
		}
	})
}

// FuzzSift: what is copied of HTTP/1 stands in the original, also when a filter has looked at the bodies;
// and nothing that comes over HTTP/2 does harm.
func FuzzSift(f *testing.F) {
	f.Add("POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\noneGET / HTTP/1.1\r\n\r\n", true)
	f.Add("PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ntwo\r\n0\r\nA: b\r\n\r\n", true)
	f.Add(preface+"\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x03\x01\x05\x00\x00\x00\x01\x82\x84\x86", false)
	f.Add(preface+"\x00\x00\x02\x01\x04\x00\x00\x00\x03\x82\x84\x00\x00\x01\x00\x01\x00\x00\x00\x03x", true)
	f.Fuzz(func(t *testing.T, in string, all bool) {
		n := 0
		var out bytes.Buffer
		budget := NewBudget(1 << 20)
		_ = Sift(func() (io.Writer, error) { return &out, nil }, iotest.OneByteReader(strings.NewReader(in)), func(r *httpfilter.Request) bool {
			if r.Body != nil {
				_, _ = r.Body(10, 0)
				_, _ = r.Body(100, 0)
			}
			n++
			return all || n%2 == 0
		}, budget)
		if budget.left != 1<<20 {
			t.Errorf("%d bytes of the budget are left", budget.left)
		}
		if all && !strings.HasPrefix(in, preface) && !strings.Contains(strings.ToLower(in), "h2c") && !strings.HasPrefix(in, out.String()) {
			t.Errorf("%q came of %q", out.String(), in)
		}
	})
}
