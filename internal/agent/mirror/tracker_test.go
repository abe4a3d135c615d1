package mirror

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// bench drives a tracker with crafted segments.
type bench struct {
	t testing.TB
	*tracker
	now   time.Time
	conns []*Conn
	deny  bool
}

func newBench(t testing.TB, change func(*limits)) *bench {
	l := defaultLimits()
	if change != nil {
		change(&l)
	}
	b := &bench{t: t, now: time.Unix(1e9, 0)}
	b.tracker = newTracker(l, func(c *Conn) bool {
		if !b.deny {
			b.conns = append(b.conns, c)
		}
		return !b.deny
	})
	b.own(pod4.Port(), nil)
	return b
}

const clientISN, podISN = 1000, 9000

func (b *bench) client(peer netip.AddrPort, flags uint8, seq, ack uint32, payload string) {
	b.packet(segment{peer, pod4, seq, ack, flags, []byte(payload), len(payload)}, b.now)
}

func (b *bench) pod(peer netip.AddrPort, flags uint8, seq, ack uint32) {
	b.packet(segment{pod4, peer, seq, ack, flags, nil, 0}, b.now)
}

// handshake opens a connection whose first byte has the number clientISN+1.
func (b *bench) handshake(peer netip.AddrPort) {
	b.client(peer, flagSYN, clientISN, 0, "")
	b.pod(peer, flagSYN|flagACK, podISN, clientISN+1)
	b.client(peer, flagACK, clientISN+1, podISN+1, "")
}

func (b *bench) send(peer netip.AddrPort, off int, payload string, flags uint8) {
	b.client(peer, flagACK|flags, clientISN+1+uint32(off), podISN+1, payload)
}

// last is the latest connection handed out, of n so far.
func (b *bench) last(n int) *Conn {
	b.t.Helper()
	if len(b.conns) != n {
		b.t.Fatalf("%d connections, want %d", len(b.conns), n)
	}
	return b.conns[n-1]
}

// wantEnd reads a connection to its end, which must be there.
func wantEnd(t testing.TB, c *Conn, data string, is func(error) bool) {
	t.Helper()
	c.mu.Lock()
	ended := c.err != nil
	c.mu.Unlock()
	if !ended {
		t.Fatal("the copy has not ended")
	}
	var got bytes.Buffer
	_, err := io.Copy(&got, struct{ io.Reader }{c})
	if err == nil {
		err = io.EOF
	}
	if got.String() != data || !is(err) {
		t.Fatalf("read %q, %v; want %q", got.String(), err, data)
	}
}

func isEOF(err error) bool  { return errors.Is(err, io.EOF) }
func isGap(err error) bool  { return errors.As(err, new(*GapError)) }
func isSlow(err error) bool { return errors.As(err, new(*SlowError)) }

const request = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"

func TestTracker(t *testing.T) {
	tests := []struct {
		name string
		run  func(b *bench)
	}{
		{"a connection from its handshake", func(b *bench) {
			b.handshake(client4)
			c := b.last(1)
			if c.Peer() != client4 || c.Local() != pod4 {
				b.t.Errorf("from %v to %v", c.Peer(), c.Local())
			}
			b.send(client4, 0, "hello ", 0)
			b.send(client4, 6, "world", flagFIN)
			wantEnd(b.t, c, "hello world", isEOF)
		}},
		{"the first acknowledgement lost", func(b *bench) {
			b.client(client4, flagSYN, clientISN, 0, "")
			b.pod(client4, flagSYN|flagACK, podISN, clientISN+1)
			b.client(client4, flagACK|flagFIN, clientISN+3, podISN+100, "cd")
			b.client(client4, flagACK, clientISN+1, podISN+100, "ab")
			wantEnd(b.t, b.last(1), "abcd", isEOF)
		}},
		{"handshakes that the target did not answer", func(b *bench) {
			b.client(client4, flagSYN, clientISN, 0, "")
			b.client(client4, flagACK, clientISN+1, podISN+1, "x")
			b.pod(client4, flagSYN|flagACK, podISN, clientISN+7)
			b.client(client4, flagACK, clientISN+1, podISN+1, "x")
			if len(b.conns) != 0 {
				b.t.Error("copied")
			}
		}},
		{"an acknowledgement of what was not answered", func(b *bench) {
			b.client(client4, flagSYN, clientISN, 0, "")
			b.pod(client4, flagSYN|flagACK, podISN, clientISN+1)
			b.client(client4, flagACK, clientISN+1, podISN, "x")
			if len(b.conns) != 0 {
				b.t.Error("copied")
			}
		}},
		{"refused by the target", func(b *bench) {
			b.client(client4, flagSYN, clientISN, 0, "")
			b.pod(client4, flagRST|flagACK, 0, clientISN+1)
			if len(b.conns) != 0 || len(b.flows) != 0 {
				b.t.Error("is known")
			}
		}},
		{"reset by the client", func(b *bench) {
			b.handshake(client4)
			b.send(client4, 0, "ab", 0)
			b.client(client4, flagRST, clientISN, 0, "") // not in the window
			b.send(client4, 2, "cd", 0)
			b.client(client4, flagRST, clientISN+5, 0, "")
			wantEnd(b.t, b.last(1), "abcd", isEOF)
		}},
		{"reset by the client behind a hole", func(b *bench) {
			b.handshake(client4)
			b.client(client4, flagRST, clientISN+5, 0, "")
			wantEnd(b.t, b.last(1), "", isGap)
		}},
		{"reset by the target", func(b *bench) {
			b.handshake(client4)
			b.send(client4, 0, "ab", 0)
			b.pod(client4, flagRST, podISN+1, 0)
			wantEnd(b.t, b.last(1), "ab", isEOF)
			b.send(client4, 2, request, 0)
			b.last(1)
		}},
		{"joined at a request", func(b *bench) {
			b.send(client4, 0, "body of an earlier one", 0)
			b.send(client4, 22, request, 0)
			b.send(client4, 22+len(request), "more", flagFIN)
			wantEnd(b.t, b.last(1), request+"more", isEOF)
			if b.stats.Joined != 1 {
				b.t.Errorf("joined %d", b.stats.Joined)
			}
		}},
		{"a gap, and joined again", func(b *bench) {
			b.handshake(client4)
			b.send(client4, 0, "ab", 0)
			b.send(client4, 4, "ef", 0)
			b.now = b.now.Add(b.limits.patience - 1)
			b.sweep(b.now)
			c := b.last(1)
			b.now = b.now.Add(1)
			b.sweep(b.now)
			wantEnd(b.t, c, "ab", isGap)
			b.send(client4, 2, request, 0) // from before the gap's end
			b.last(1)
			b.send(client4, 40, request, flagFIN)
			wantEnd(b.t, b.last(2), request, isEOF)
			if b.stats.Gaps != 1 {
				b.t.Errorf("gaps %d", b.stats.Gaps)
			}
		}},
		{"a hole that is filled in time, and another", func(b *bench) {
			b.handshake(client4)
			b.send(client4, 2, "cd", 0)
			b.send(client4, 6, "gh", 0)
			b.now = b.now.Add(b.limits.patience / 2)
			b.send(client4, 0, "ab", 0)
			b.now = b.now.Add(b.limits.patience / 2)
			b.sweep(b.now)
			b.send(client4, 4, "ef", flagFIN)
			b.send(client4, 8, "", flagFIN)
			if len(b.holes) != 0 {
				b.t.Error("a hole is left")
			}
		}},
		{"a segment beyond all measure", func(b *bench) {
			b.limits.all = 100
			b.budget.limit = 100
			b.handshake(client4)
			b.send(client4, 1, strings.Repeat("x", 200), 0)
			wantEnd(b.t, b.last(1), "", isGap)
		}},
		{"a slow reader, and joined again", func(b *bench) {
			b.limits.conn = 3 * minChunk
			b.handshake(client4)
			off, first := 0, strings.Repeat("x", minChunk)
			for ; b.stats.Slow == 0; off += minChunk {
				b.send(client4, off, first, 0)
				if off > 1<<20 {
					b.t.Fatal("no limit")
				}
			}
			c := b.last(1)
			wantEnd(b.t, c, strings.Repeat(first, off/minChunk-1), isSlow)
			b.send(client4, off, request, flagFIN)
			wantEnd(b.t, b.last(2), request, isEOF)
		}},
		{"too much in all", func(b *bench) {
			b.budget.limit = 2 * minChunk
			for i := range uint16(3) {
				peer := netip.AddrPortFrom(client4.Addr(), 40000+i)
				b.handshake(peer)
				b.send(peer, 0, "hello", 0)
			}
			wantEnd(b.t, b.last(3), "", isSlow)
			b.conns[0].Close()
			b.send(client4, 5, "x", 0) // A closed one is no slow one.
			if b.stats.Slow != 1 || b.budget.used.Load() != minChunk {
				b.t.Errorf("slow %d, used %d", b.stats.Slow, b.budget.used.Load())
			}
		}},
		{"two owners", func(b *bench) {
			b.own(pod4.Port(), "late")
			b.handshake(client4)
			b.send(client4, 0, "ab", 0)
			first, second := b.conns[0], b.conns[1]
			if first.Owner() != nil || second.Owner() != "late" {
				b.t.Errorf("owners %v, %v", first.Owner(), second.Owner())
			}
			_ = first.Close() // costs the other nothing
			b.send(client4, 2, "cd", 0)
			b.send(client4, 4, request, flagFIN)
			wantEnd(b.t, second, "abcd"+request, isEOF)
			wantEnd(b.t, b.last(3), request, isEOF) // the first one's, joined again
		}},
		{"an owner comes and goes", func(b *bench) {
			b.handshake(client4)
			b.send(client4, 0, "ab", 0)
			b.own(pod4.Port(), "late")
			b.send(client4, 2, "cd", 0) // no request
			b.send(client4, 4, request, 0)
			late := b.last(2)
			if late.Owner() != "late" || b.stats.Joined != 1 {
				b.t.Errorf("owner %v, %d joined", late.Owner(), b.stats.Joined)
			}
			b.remove(func(flowKey) bool { return true }, b.disown(pod4.Port(), "late"), ErrRemoved)
			wantEnd(b.t, late, request, func(err error) bool { return errors.Is(err, ErrRemoved) })
			b.send(client4, 4+len(request), "e", flagFIN)
			wantEnd(b.t, b.conns[0], "abcd"+request+"e", isEOF)
		}},
		{"one owner reads slowly", func(b *bench) {
			b.limits.conn = 4 * minChunk
			b.budget.limit = 4 * minChunk
			b.own(pod4.Port(), "slow") // half of it each
			b.handshake(client4)
			fast, off := b.conns[0], 0
			for ; b.stats.Slow == 0; off += minChunk {
				b.send(client4, off, strings.Repeat("x", minChunk), 0)
				if _, err := io.ReadFull(fast, make([]byte, minChunk)); err != nil || off > 1<<20 {
					b.t.Fatalf("at %d: %v", off, err)
				}
			}
			b.send(client4, off, "end", flagFIN)
			wantEnd(b.t, fast, "end", isEOF)
			wantEnd(b.t, b.conns[1], strings.Repeat("x", minChunk), isSlow)
		}},
		{"nobody accepts", func(b *bench) {
			b.deny = true
			b.handshake(client4)
			if b.stats.Slow != 1 || b.stats.Conns != 0 {
				b.t.Errorf("%+v", b.stats)
			}
		}},
		{"a closed copy, and the next request", func(b *bench) {
			b.handshake(client4)
			b.send(client4, 0, request, 0)
			b.last(1).Close()
			b.send(client4, len(request), "body", 0)
			b.send(client4, len(request)+4, request, flagFIN)
			wantEnd(b.t, b.last(2), request, isEOF)
		}},
		{"a new connection under the same addresses", func(b *bench) {
			b.handshake(client4)
			b.send(client4, 0, "ab", flagFIN)
			b.send(client4, 0, "ab", flagFIN)
			b.handshake(client4)
			b.client(client4, flagSYN, clientISN+500, 0, "") // The end was missed.
			wantEnd(b.t, b.last(2), "", isGap)
		}},
		{"a request that is sent again after the end", func(b *bench) {
			b.handshake(client4)
			b.send(client4, 0, request, flagFIN)
			b.send(client4, 0, request, flagFIN)
			wantEnd(b.t, b.last(1), request, isEOF)
		}},
		{"the oldest of too many", func(b *bench) {
			b.limits.flows, b.limits.embryos, b.limits.past = 2, 2, 2
			for i := range uint16(6) {
				b.handshake(netip.AddrPortFrom(client4.Addr(), 40000+i))
				b.client(netip.AddrPortFrom(client4.Addr(), 50000+i), flagSYN, clientISN, 0, "")
			}
			wantEnd(b.t, b.conns[0], "", func(err error) bool { return errors.Is(err, ErrEvicted) })
			if b.copied.Len() != 2 || b.embryos.Len() != 2 || b.past.Len() != 2 || len(b.flows) != 6 || b.stats.Evicted != 4 {
				b.t.Errorf("%d, %d, %d, %d flows, %+v", b.copied.Len(), b.embryos.Len(), b.past.Len(), len(b.flows), b.stats)
			}
		}},
		{"a port removed", func(b *bench) {
			b.handshake(client4)
			b.send(client4, 0, "ab", 0)
			b.remove(func(k flowKey) bool { return k.local.Port() == 1 }, nil, ErrRemoved)
			b.send(client4, 3, "d", 0)
			b.remove(func(k flowKey) bool { return k.local == pod4 }, nil, ErrRemoved)
			wantEnd(b.t, b.last(1), "ab", func(err error) bool { return errors.Is(err, ErrRemoved) })
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, nil)
			tt.run(b)
			b.finish()
		})
	}
}

// finish ends everything and checks that nothing is kept.
func (b *bench) finish() {
	b.t.Helper()
	b.remove(func(flowKey) bool { return true }, nil, io.EOF)
	for _, c := range b.conns {
		c.Close()
	}
	if used := b.budget.used.Load(); used != 0 || len(b.flows) != 0 || len(b.holes) != 0 ||
		b.embryos.Len()+b.copied.Len()+b.past.Len() != 0 {
		b.t.Errorf("kept %d bytes, %d flows, %d holes", used, len(b.flows), len(b.holes))
	}
}

func TestBeginsRequest(t *testing.T) {
	for s, want := range map[string]bool{
		request:                            true,
		"M-SEARCH * HTTP/1.0\n":            true,
		"GET / HTTP/1.1":                   false,
		"GET / HTTP/2.0\r\n":               false,
		"GET /\r\nX: HTTP/1.1\r\n":         false,
		" GET / HTTP/1.1\r\n":              false,
		"get / HTTP/1.1\r\n":               false,
		"":                                 false,
		strings.Repeat("A", 99) + request:  false,
		"HTTP/1.1 200 OK\r\n":              false,
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n": false,
	} {
		if got := beginsRequest([]byte(s)); got != want {
			t.Errorf("%q: %v", s, got)
		}
	}
}

// FuzzTracker sends what the input says: five bytes choose the sender, the flags, the
// sequence number, the acknowledgement and the payload.
func FuzzTracker(f *testing.F) {
	f.Add([]byte{0, flagSYN, 0, 0, 0, 4, flagSYN | flagACK, 0, 1, 0, 0, flagACK, 1, 1, 9, 0, flagACK | flagFIN, 20, 1, 3})
	r := rand.New(rand.NewPCG(1, 2))
	long := make([]byte, 500)
	for i := range long {
		long[i] = byte(r.Uint32())
	}
	f.Add(long)
	payloads := []string{"", "x", request, strings.Repeat("y", 5000)}
	f.Fuzz(func(t *testing.T, ops []byte) {
		b := newBench(t, func(l *limits) {
			l.flows, l.past, l.embryos, l.conn, l.all, l.patience = 2, 2, 2, 16<<10, 24<<10, time.Second
		})
		for ; len(ops) >= 5; ops = ops[5:] {
			peer := netip.AddrPortFrom(client4.Addr(), 40000+uint16(ops[0]%4))
			seq, ack := uint32(ops[2])*16-1, uint32(ops[3])*16-1
			if ops[0]&4 != 0 {
				b.pod(peer, ops[1], seq, ack)
			} else {
				b.client(peer, ops[1], seq, ack, payloads[ops[4]%4])
			}
			if ops[4]&0x80 != 0 {
				b.now = b.now.Add(time.Second)
				b.sweep(b.now)
			}
			if n := len(b.conns); ops[4]&0x40 != 0 && n > 0 {
				b.conns[n-1].Close()
			}
			if b.copied.Len() > 2 || b.past.Len() > 2 || b.embryos.Len() > 2 || len(b.flows) > 6 || b.budget.used.Load() > 24<<10 {
				t.Fatal("a limit is exceeded")
			}
		}
		b.finish()
	})
}
