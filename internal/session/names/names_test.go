package names

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/net/dns/dnsmessage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func query(t testing.TB, id uint16, name string, typ dnsmessage.Type) []byte {
	t.Helper()
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: id, RecursionDesired: true})
	_ = b.StartQuestions()
	if err := b.Question(dnsmessage.Question{Name: dnsmessage.MustNewName(name), Type: typ, Class: dnsmessage.ClassINET}); err != nil {
		t.Fatal(err)
	}
	m, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// respond answers any query: an A record for "yes.", NXDOMAIN with an SOA for others.
func respond(t testing.TB, q []byte) []byte {
	t.Helper()
	var m dnsmessage.Message
	if err := m.Unpack(q); err != nil {
		t.Fatal(err)
	}
	m.Response, m.RecursionAvailable = true, true
	name := m.Questions[0].Name
	if strings.EqualFold(name.String(), "yes.") {
		m.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: name, Class: dnsmessage.ClassINET, TTL: 20},
			Body:   &dnsmessage.AResource{A: [4]byte{10, 0, 0, 1}},
		}}
	} else {
		m.RCode = dnsmessage.RCodeNameError
		m.Authorities = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName("."), Class: dnsmessage.ClassINET, TTL: 100},
			Body:   &dnsmessage.SOAResource{NS: dnsmessage.MustNewName("ns."), MBox: dnsmessage.MustNewName("m."), MinTTL: 3},
		}}
	}
	m.Additionals = []dnsmessage.Resource{{
		Header: dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName("."), Class: 1232},
		Body:   &dnsmessage.OPTResource{},
	}}
	out, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func unpack(t testing.TB, b []byte) dnsmessage.Message {
	t.Helper()
	var m dnsmessage.Message
	if err := m.Unpack(b); err != nil {
		t.Fatalf("answer %x: %v", b, err)
	}
	return m
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func TestKeepsAnswersForTheirTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		r := New(quiet(), func(_ context.Context, _ bool, q []byte) ([]byte, error) {
			asked++
			return respond(t, q), nil
		}, false)
		get := func(id uint16, name string, stream bool, want int) dnsmessage.Message {
			t.Helper()
			b, err := r.Exchange(t.Context(), stream, query(t, id, name, dnsmessage.TypeA))
			if err != nil {
				t.Fatal(err)
			}
			if asked != want {
				t.Fatalf("the target was asked %d times, want %d", asked, want)
			}
			m := unpack(t, b)
			if m.ID != id || m.Questions[0].Name.String() != name {
				t.Fatalf("answer to %d %v, want %d %v", m.ID, m.Questions[0].Name, id, name)
			}
			return m
		}
		get(1, "yes.", false, 1)
		time.Sleep(7 * time.Second)
		if m := get(2, "YeS.", false, 1); m.Answers[0].Header.TTL != 13 || m.Answers[0].Header.Name.String() != "YeS." {
			t.Errorf("kept answer %v", m.Answers[0])
		}
		get(3, "yes.", true, 2) // over TCP an answer may be longer
		time.Sleep(14 * time.Second)
		get(4, "yes.", false, 3)

		if m := get(5, "no.", false, 4); m.RCode != dnsmessage.RCodeNameError {
			t.Errorf("rcode %v", m.RCode)
		}
		get(6, "no.", false, 4)
		time.Sleep(3 * time.Second) // the SOA's last field, not its TTL
		get(7, "no.", false, 5)
	})
}

func TestTrouble(t *testing.T) {
	for name, answer := range map[string]func(q []byte) ([]byte, error){
		"tunnel lost":          func([]byte) ([]byte, error) { return nil, syscall.ENETUNREACH },
		"answer to another":    func([]byte) ([]byte, error) { return respond(t, query(t, 1, "other.", dnsmessage.TypeA)), nil },
		"answer to other type": func([]byte) ([]byte, error) { return respond(t, query(t, 1, "yes.", dnsmessage.TypeMX)), nil },
		"short":                func([]byte) ([]byte, error) { return []byte{1, 2, 3}, nil },
		"a query is no answer": func(q []byte) ([]byte, error) { return q, nil },
		"truncated record":     func(q []byte) ([]byte, error) { m := respond(t, q); return m[:len(m)-14], nil },
		"header promises more": func(q []byte) ([]byte, error) { m := respond(t, q); m[6] = 0xff; return m, nil },
	} {
		t.Run(name, func(t *testing.T) {
			asked := 0
			r := New(quiet(), func(_ context.Context, _ bool, q []byte) ([]byte, error) { asked++; return answer(q) }, false)
			for range 2 {
				b, err := r.Exchange(t.Context(), false, query(t, 9, "yes.", dnsmessage.TypeA))
				if err != nil {
					t.Fatal(err)
				}
				if m := unpack(t, b); m.ID != 9 || m.RCode != dnsmessage.RCodeServerFailure || len(m.Answers) != 0 || !m.Response {
					t.Errorf("answer %+v, want SERVFAIL", m.Header)
				}
			}
			if asked != 2 {
				t.Errorf("a failure was kept: asked %d times", asked)
			}
		})
	}
}

func TestWithoutIPv6(t *testing.T) {
	r := New(quiet(), func(_ context.Context, _ bool, q []byte) ([]byte, error) { return respond(t, q), nil }, true)
	for typ, want := range map[dnsmessage.Type]int{dnsmessage.TypeA: 1, dnsmessage.TypeAAAA: 0} {
		b, err := r.Exchange(t.Context(), false, query(t, 1, "yes.", typ))
		if err != nil {
			t.Fatal(err)
		}
		m := unpack(t, b)
		if m.RCode != dnsmessage.RCodeSuccess || len(m.Answers) != want {
			t.Errorf("%v: %v with %d answers, want success with %d", typ, m.RCode, len(m.Answers), want)
		}
	}
}

func TestEqualQueriesShareOneWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		first, cancelFirst := context.WithCancel(t.Context())
		r := New(quiet(), func(ctx context.Context, _ bool, q []byte) ([]byte, error) {
			asked.Add(1)
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-time.After(time.Second):
				return respond(t, q), nil
			}
		}, false)
		results := make(chan dnsmessage.RCode)
		start := func(ctx context.Context, id uint16) {
			go func() {
				b, err := r.Exchange(ctx, false, query(t, id, "yes.", dnsmessage.TypeA))
				if err != nil {
					t.Error(err)
				}
				m := unpack(t, b)
				if m.ID != id {
					t.Errorf("answer number %d, want %d", m.ID, id)
				}
				results <- m.RCode
			}()
			synctest.Wait()
		}
		start(first, 1)
		for id := range uint16(20) {
			start(t.Context(), id+2)
		}
		if n := asked.Load(); n != 1 {
			t.Errorf("asked %d times, want once", n)
		}
		// The first gives up: one of the others asks in its place.
		cancelFirst()
		if c := <-results; c != dnsmessage.RCodeServerFailure {
			t.Errorf("the one who gave up got %v", c)
		}
		for range 20 {
			if c := <-results; c != dnsmessage.RCodeSuccess {
				t.Errorf("rcode %v", c)
			}
		}
		if n := asked.Load(); n != 2 {
			t.Errorf("asked %d times, want twice", n)
		}
	})
}

func TestBounded(t *testing.T) {
	r := New(quiet(), func(_ context.Context, _ bool, q []byte) ([]byte, error) { return respond(t, q), nil }, false)
	for i := range 3 * maxEntries {
		name := "n" + strings.Repeat("x", i%50) + string(rune('a'+i%26)) + string(rune('a'+i/26%26)) + string(rune('a'+i/676)) + "."
		if _, err := r.Exchange(t.Context(), false, query(t, 1, name, dnsmessage.TypeA)); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(r.entries); n != maxEntries {
		t.Errorf("%d entries are kept, want %d", n, maxEntries)
	}
}

func TestUnusualQueriesPassThrough(t *testing.T) {
	var got []byte
	r := New(quiet(), func(_ context.Context, _ bool, q []byte) ([]byte, error) { got = q; return []byte("as is"), nil }, true)
	b, err := r.Exchange(t.Context(), true, []byte("no query"))
	if err != nil || string(b) != "as is" || string(got) != "no query" {
		t.Errorf("got %q, %v for %q", b, err, got)
	}
	gone := errors.New("gone")
	r = New(quiet(), func(context.Context, bool, []byte) ([]byte, error) { return nil, gone }, true)
	if _, err := r.Exchange(t.Context(), true, nil); !errors.Is(err, gone) {
		t.Errorf("error %v", err)
	}
}

func FuzzAnswer(f *testing.F) {
	q := query(f, 7, "yes.", dnsmessage.TypeA)
	f.Add(q, respond(f, q))
	n := query(f, 7, "no.example.", dnsmessage.TypeAAAA)
	f.Add(n, respond(f, n))
	f.Add([]byte{}, []byte{})
	f.Fuzz(func(t *testing.T, query, response []byte) {
		r := New(quiet(), func(context.Context, bool, []byte) ([]byte, error) {
			return append([]byte(nil), response...), nil
		}, false)
		first, err := r.Exchange(t.Context(), false, query)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parseQuery(query); err != nil {
			return
		}
		if binary.BigEndian.Uint16(first[2:])&flagResponse == 0 {
			t.Fatalf("answer %x is none", first)
		}
		second, _ := r.Exchange(t.Context(), false, query)
		if diff := cmp.Diff(len(first), len(second)); diff != "" {
			t.Fatalf("a kept answer has another length: %s", diff)
		}
	})
}
