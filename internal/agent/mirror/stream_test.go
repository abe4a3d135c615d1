package mirror

import (
	"bytes"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// piece is a segment by its offset in the stream.
type piece struct {
	off  int
	data string
	fin  bool
	cut  int // bytes that the capture lacks
}

func (p piece) segment(isn uint32) segment {
	s := segment{seq: isn + uint32(p.off), payload: []byte(p.data), length: len(p.data) + p.cut, flags: flagACK}
	if p.fin {
		s.flags |= flagFIN
	}
	return s
}

func TestStream(t *testing.T) {
	tests := []struct {
		name        string
		pieces      []piece
		want        string
		ended, hole bool
	}{
		{"nothing", nil, "", false, false},
		{"in order", []piece{{0, "ab", false, 0}, {2, "cd", false, 0}}, "abcd", false, false},
		{"end", []piece{{0, "ab", true, 0}}, "ab", true, false},
		{"end alone", []piece{{0, "ab", false, 0}, {2, "", true, 0}}, "ab", true, false},
		{"end before the rest", []piece{{2, "cd", true, 0}, {0, "ab", false, 0}}, "abcd", true, false},
		{"end behind a hole", []piece{{0, "ab", false, 0}, {4, "", true, 0}}, "ab", false, true},
		{"end twice", []piece{{0, "ab", true, 0}, {0, "ab", true, 0}}, "ab", true, false},
		{"data behind the end", []piece{{0, "ab", true, 0}, {2, "cd", false, 0}}, "ab", true, false},
		{"data across the end", []piece{{2, "", true, 0}, {0, "abcd", false, 0}}, "ab", true, false},
		{"held data across the end", []piece{{1, "bcd", false, 0}, {2, "", true, 0}, {0, "a", false, 0}}, "ab", true, false},
		{"out of order", []piece{{4, "ef", false, 0}, {2, "cd", false, 0}, {0, "ab", false, 0}}, "abcdef", false, false},
		{"retransmitted", []piece{{0, "ab", false, 0}, {0, "ab", false, 0}, {2, "c", false, 0}}, "abc", false, false},
		{"retransmitted, longer", []piece{{0, "ab", false, 0}, {0, "abcd", false, 0}}, "abcd", false, false},
		{"retransmitted, shorter", []piece{{0, "abcd", false, 0}, {1, "b", false, 0}}, "abcd", false, false},
		{"keep-alive probe", []piece{{0, "ab", false, 0}, {1, "x", false, 0}, {1, "", false, 0}}, "ab", false, false},
		{"hole", []piece{{0, "ab", false, 0}, {4, "ef", false, 0}}, "ab", false, true},
		{"hole, by an empty segment", []piece{{0, "ab", false, 0}, {4, "", false, 0}}, "ab", false, true},
		{"hole filled by a longer one", []piece{{2, "cd", false, 0}, {6, "gh", false, 0}, {0, "abcdefgh", false, 0}}, "abcdefgh", false, false},
		{"held overlap", []piece{{2, "cd", false, 0}, {3, "de", false, 0}, {0, "ab", false, 0}}, "abcde", false, false},
		{"held, same start, longer", []piece{{2, "c", false, 0}, {2, "cde", false, 0}, {0, "ab", false, 0}}, "abcde", false, false},
		{"held, covering several", []piece{{3, "d", false, 0}, {5, "f", false, 0}, {2, "cdefg", false, 0}, {0, "ab", false, 0}}, "abcdefg", false, false},
		{"cut by the capture", []piece{{0, "ab", false, 2}, {4, "ef", false, 0}}, "ab", false, true},
		{"far away", []piece{{maxWindow + 1, "x", false, 0}, {0, "a", false, 0}}, "a", false, false},
		{"long past", []piece{{0, "a", false, 0}, {-maxWindow, "x", false, 0}}, "a", false, false},
		// What differs between overlapping segments: in order wins, then the earlier start.
		{"conflict with held", []piece{{2, "cd", false, 0}, {0, "abXX", false, 0}}, "abXX", false, false},
		{"conflict of held", []piece{{3, "XX", false, 0}, {2, "cd", false, 0}, {0, "ab", false, 0}}, "abcdX", false, false},
	}
	for _, tt := range tests {
		for _, isn := range []uint32{0, 1000, math.MaxUint32 - 2, math.MaxInt32 - 1} {
			s := newStream(isn)
			var got bytes.Buffer
			for _, p := range tt.pieces {
				if !s.push(p.segment(isn), func(b []byte) { got.Write(b) }) {
					t.Errorf("%s: did not fit", tt.name)
				}
			}
			if got.String() != tt.want || s.ended() != tt.ended || s.hole() != tt.hole {
				t.Errorf("%s, from %d: got %q, ended %v, hole %v; want %q, %v, %v",
					tt.name, isn, got.String(), s.ended(), s.hole(), tt.want, tt.ended, tt.hole)
			}
		}
	}
}

// A stream cut into random, overlapping, repeated pieces in random order comes out whole.
func TestStreamRandom(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		content := make([]byte, r.IntN(5000))
		for i := range content {
			content[i] = byte(r.Uint32())
		}
		isn := r.Uint32()
		if seed%2 == 0 {
			isn = math.MaxUint32 - uint32(r.IntN(len(content)+1))
		}
		var pieces []segment
		add := func(from, to int) {
			pieces = append(pieces, piece{from, string(content[from:to]), to == len(content), 0}.segment(isn))
		}
		for from := 0; from < len(content); {
			to := min(len(content), from+1+r.IntN(200))
			add(from, to)
			from = to
		}
		add(len(content), len(content))
		for range r.IntN(50) {
			from := r.IntN(len(content) + 1)
			add(from, from+r.IntN(len(content)-from+1))
		}
		r.Shuffle(len(pieces), func(i, j int) { pieces[i], pieces[j] = pieces[j], pieces[i] })
		s := newStream(isn)
		var got bytes.Buffer
		for _, p := range pieces {
			if !s.push(p, func(b []byte) { got.Write(b) }) {
				t.Fatalf("seed %d: did not fit", seed)
			}
		}
		if !bytes.Equal(got.Bytes(), content) || !s.ended() || s.held != 0 || len(s.later) != 0 {
			t.Fatalf("seed %d: %d of %d bytes, ended %v, held %d", seed, got.Len(), len(content), s.ended(), s.held)
		}
	}
}

func TestStreamLimits(t *testing.T) {
	nothing := func([]byte) {}
	s := newStream(0)
	n := 0
	for ; s.push(segment{seq: uint32(2 + 2*n), payload: []byte("x"), length: 1}, nothing); n++ {
		if n > maxLaterCount {
			t.Fatal("no limit of the number")
		}
	}
	if n != maxLaterCount {
		t.Errorf("held %d segments", n)
	}
	s = newStream(0)
	big := make([]byte, 64<<10)
	for n = 0; s.push(segment{seq: uint32(1 + n*len(big)), payload: big, length: len(big)}, nothing); n++ {
		if n*len(big) > maxLater {
			t.Fatal("no limit of the bytes")
		}
	}
	if s.held > maxLater || s.held < maxLater-2*len(big) {
		t.Errorf("held %d bytes", s.held)
	}
}

// FuzzStream cuts a known content as the input says: three bytes are a segment's offset, its
// length, and whether it is the end.
func FuzzStream(f *testing.F) {
	f.Add(uint32(0), []byte{0, 10, 0, 10, 20, 0, 5, 10, 0, 30, 0, 1})
	f.Add(uint32(math.MaxUint32-5), []byte{4, 10, 0, 0, 4, 0, 200, 50, 1})
	content := make([]byte, 512)
	for i := range content {
		content[i] = byte(i ^ i>>8)
	}
	f.Fuzz(func(t *testing.T, isn uint32, ops []byte) {
		s := newStream(isn)
		var got []byte
		seen := make([]bool, len(content)+1)
		for op := range slices.Chunk(ops, 3) {
			if len(op) < 3 {
				break
			}
			from, to := int(op[0]), int(op[0])+int(op[1])
			fin := op[2] == 1
			if s.hasFIN {
				fin = isn+uint32(to) == s.fin // A stream has one end.
			} else if fin && isn+uint32(to) != s.high && before(isn+uint32(to), s.high) {
				fin = false
			}
			s.push(piece{from, string(content[from:to]), fin, 0}.segment(isn), func(b []byte) { got = append(got, b...) })
			for i := from; i < to; i++ {
				seen[i] = true
			}
			whole := slices.Index(seen, false)
			if s.hasFIN {
				whole = min(whole, int(s.fin-isn))
			}
			if !bytes.Equal(got, content[:whole]) {
				t.Fatalf("delivered %d bytes of %d, or wrong ones", len(got), whole)
			}
			cost := 0
			for i, h := range s.later {
				cost += h.cost()
				if i > 0 && (!before(s.later[i-1].seq, h.seq) || !before(s.later[i-1].end(), h.end())) {
					t.Fatal("what is held is not in order")
				}
			}
			if cost != s.held {
				t.Fatalf("held %d, counted %d", cost, s.held)
			}
		}
	})
}
