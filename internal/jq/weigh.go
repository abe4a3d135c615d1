package jq

import (
	"encoding/json"
	"errors"
	"math"
	"math/big"
	"strings"

	"github.com/itchyny/gojq"
)

// The functions that are added to programs. Users' programs can't name them.
const (
	weighName  = "_weigh"
	squareName = "_square"
	timesName  = "_times"
	joinName   = "_joined"
	searchName = "_searched"
	placeName  = "_place"
)

// weigh is the identity. It takes its input's weight, so many times as the argument says, off the allowance.
func (m *meter) weigh(v any, args []any) any {
	times, _ := args[0].(int)
	if w := m.weightOf(v); !m.spendTimes(w, times) {
		return ErrTooMuch
	}
	return v
}

// square is like weigh, for what compares everything with everything.
func (m *meter) square(v any, _ []any) any {
	if w := m.weightOf(v); !m.spendTimes(w, 1+w/64) {
		return ErrTooMuch
	}
	return v
}

// searched is square, but for texts, which are searched once.
func (m *meter) searched(v any, _ []any) any {
	if s, ok := v.(string); ok && m.spend(cell+light*len(s)) {
		return v
	}
	return m.square(v, nil)
}

// place is the identity for what can be the place of one value.
func (m *meter) place(v any, _ []any) any {
	switch v.(type) {
	case []any, map[string]any:
		return errPlace
	}
	return v
}

func (m *meter) spendTimes(w, times int) bool {
	if w > maxWeight || times > maxWeight/max(w, 1) {
		w, times = maxWeight+1, 1
	}
	return m.spend(w * times)
}

// The weights of values, in bytes: at least what they take.
const (
	cell   = 32
	member = 64
)

// weightOf weighs a value as if nothing in it were shared: what reads or writes a value does not know either. It stops
// when the allowance is used up, with something that is above it.
func (m *meter) weightOf(v any) int {
	left := m.weight
	weigh(v, maxDepth, &left)
	return m.weight - left
}

func weigh(v any, depth int, left *int) {
	*left -= cell
	if depth == 0 {
		*left = -1
	}
	if *left < 0 {
		return
	}
	switch v := v.(type) {
	case string:
		*left -= len(v)
	case json.Number: // as the program has it
		*left -= len(v)
	case *big.Int:
		*left -= v.BitLen() / 4
	case []any:
		for _, e := range v {
			if weigh(e, depth-1, left); *left < 0 {
				return
			}
		}
	case map[string]any:
		for k, e := range v {
			*left -= member + len(k)
			if weigh(e, depth-1, left); *left < 0 {
				return
			}
		}
	}
}

var (
	errProduct = errors.New("only numbers, and a text with a number, can be multiplied")
	errPlace   = errors.New("only a number or a text can be an index")
	errJoin    = errors.New("only lists of texts can be joined, with a text")
)

// times is the operator *. Whole numbers become floats where they get large.
func (m *meter) times(_ any, args []any) any {
	a, b := args[0], args[1]
	if i, ok := a.(int); ok {
		if j, ok := b.(int); ok && small(i) && small(j) {
			return i * j
		}
	}
	x, aNumber := gojq.ToFloat64(a)
	y, bNumber := gojq.ToFloat64(b)
	s, aText := a.(string)
	t, bText := b.(string)
	switch {
	case aNumber && bNumber:
		return x * y
	case aText && bNumber:
		return m.repeat(s, y)
	case bText && aNumber:
		return m.repeat(t, x)
	}
	return errProduct
}

func small(i int) bool { return i > math.MinInt32 && i < math.MaxInt32 }

func (m *meter) repeat(s string, n float64) any {
	if math.IsNaN(n) || n < 0 {
		return nil
	}
	if n > maxWeight || !m.spendTimes(cell+len(s), int(n)+1) {
		m.spend(maxWeight + 1)
		return ErrTooMuch
	}
	return strings.Repeat(s, int(n))
}

// join is the function of that name.
func (m *meter) join(v any, args []any) any {
	list, ok := v.([]any)
	sep, text := args[0].(string)
	if !ok || !text {
		return errJoin
	}
	if w := m.weightOf(v); !m.spend(2*w) || !m.spendTimes(cell+len(sep), len(list)+1) {
		return ErrTooMuch
	}
	texts := make([]string, len(list))
	for i, e := range list {
		switch e := e.(type) {
		case nil:
		case string:
			texts[i] = e
		case []any, map[string]any:
			return errJoin
		default:
			b, err := gojq.Marshal(e)
			if err != nil {
				return err
			}
			texts[i] = string(b)
		}
	}
	return strings.Join(texts, sep)
}
