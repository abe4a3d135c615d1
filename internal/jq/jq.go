// Package jq runs jq programs that strangers wrote, in bounded memory and time: the filters of HTTP requests are such
// programs, and one agent runs those of many users.
//
// The interpreter (gojq) can be stopped between two of its steps, but a single step can take all the memory there is:
// "x" * 1e9 is one. So a program is changed before it is compiled: in front of each step whose cost depends on its values,
// the values are weighed, and what they weigh is taken off an allowance. What the interpreter itself
// keeps grows with the number of its steps, which is bounded too. Only functions of which this is known to hold are
// there; those that change documents by paths, such as setpath, del and |=, are not, and neither is
// a regular expression that is made up while the program runs.
package jq

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/itchyny/gojq"
)

const (
	// MaxLength bounds the text of a program, in bytes.
	MaxLength = 4096
	// maxSteps bounds the interpreter's steps of one call of Yields. One step keeps some hundred bytes at
	// most.
	maxSteps = 50_000
	// maxWeight bounds what is weighed during one call of Yields, in bytes of memory.
	maxWeight = 8 << 20
	// maxDepth bounds how deep values are nested.
	maxDepth = 128
)

// ErrTooMuch says that a program was given up because it takes too many steps or too much memory.
var ErrTooMuch = errors.New("the jq program takes too many steps or too much memory")

// Gate bounds how many programs run at once. The zero value lets none pass; nil is no bound.
type Gate chan struct{}

// NewGate returns a gate that n programs can be behind. Each may take some 20 MiB.
func NewGate(n int) Gate { return make(Gate, n) }

// Program is ready to run. It is safe for concurrent use: runs wait for each other.
type Program struct {
	turn  Gate
	all   Gate
	code  *gojq.Code
	meter *meter
}

// Compile reads a program, without access to the environment or to modules. The error says what is wrong with the
// text. Programs that share a gate wait for each other there.
func Compile(text string, gate Gate) (*Program, error) {
	if len(text) > MaxLength {
		return nil, fmt.Errorf("the program has %d bytes; %d are the most", len(text), MaxLength)
	}
	q, err := gojq.Parse(text)
	if err != nil {
		return nil, err
	}
	if q, err = guard(q); err != nil {
		return nil, err
	}
	m := &meter{}
	code, err := gojq.Compile(q,
		gojq.WithFunction(weighName, 1, 1, m.weigh),
		gojq.WithFunction(squareName, 0, 0, m.square),
		gojq.WithFunction(searchName, 0, 0, m.searched),
		gojq.WithFunction(placeName, 0, 0, m.place),
		gojq.WithFunction(timesName, 2, 2, m.times),
		gojq.WithFunction(joinName, 1, 1, m.join))
	if err != nil {
		return nil, err
	}
	return &Program{turn: NewGate(1), all: gate, code: code, meter: m}, nil
}

// Yields reports whether true is among what the program yields for one of the inputs. A program that fails for an
// input says nothing more about it. The error is that of ctx, or [ErrTooMuch].
func (p *Program) Yields(ctx context.Context, inputs []string) (bool, error) {
	for _, g := range []Gate{p.turn, p.all} {
		if g == nil {
			continue
		}
		select {
		case g <- struct{}{}:
			defer func() { <-g }()
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
	p.meter.start(ctx)
	for _, in := range inputs {
		if p.yieldsTrue(in) {
			return true, nil
		}
		if p.meter.err != nil {
			return false, p.meter.err
		}
	}
	return false, nil
}

func (p *Program) yieldsTrue(input string) bool {
	iter := p.code.RunWithContext(p.meter, input)
	for {
		v, ok := iter.Next()
		if !ok {
			return false
		}
		switch v := v.(type) {
		case bool:
			if v {
				return true
			}
		case error:
			return false
		}
	}
}

// meter measures a run. For the interpreter it is the context, which is asked before each step.
type meter struct {
	ctx    context.Context //nolint:containedctx // of one run
	steps  int             // that are left
	weight int
	err    error // why the run is given up
}

var given = func() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

func (m *meter) start(ctx context.Context) {
	*m = meter{ctx: ctx, steps: maxSteps, weight: maxWeight}
}

// look is how many steps there are between two looks at the clock.
const look = 64

// Done implements [context.Context] and counts a step.
func (m *meter) Done() <-chan struct{} {
	if m.err == nil {
		if m.steps--; m.steps < 0 {
			m.err = ErrTooMuch
		} else if m.steps%look == 0 {
			m.err = m.ctx.Err()
		}
	}
	if m.err != nil {
		return given
	}
	return nil
}

// Err implements [context.Context].
func (m *meter) Err() error { return m.err }

// Deadline implements [context.Context].
func (m *meter) Deadline() (time.Time, bool) { return m.ctx.Deadline() }

// Value implements [context.Context].
func (m *meter) Value(any) any { return nil }

// spend takes n off the allowance and says whether there was as much.
func (m *meter) spend(n int) bool {
	if m.err == nil && n > m.weight {
		m.err = ErrTooMuch
	}
	m.weight -= n
	return m.err == nil
}
