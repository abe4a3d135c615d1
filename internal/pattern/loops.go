package pattern

import (
	"github.com/dlclark/regexp2"
	"github.com/dlclark/regexp2/syntax"
)

// loops is how often the engine that backtracks has to go round in a pattern's repetitions at least, also where there is
// nothing to match: (?:|a){1000000000} goes round without an end, and remembers each round.
func loops(text string, flags regexp2.RegexOptions) int {
	tree, err := syntax.Parse(text, syntax.RegexOptions(flags))
	if err != nil {
		return 0
	}
	code, err := syntax.Write(tree)
	if err != nil {
		return 0
	}
	total, rounds := 0, []int{1}
	for i := 0; i < len(code.Codes); {
		op := syntax.InstOp(code.Codes[i]) & syntax.Mask
		switch op {
		case syntax.Setcount, syntax.Nullcount: // how many are missing
			least := max(1, -code.Codes[i+1]+1)
			rounds = append(rounds, min(rounds[len(rounds)-1]*least, tooMany))
		case syntax.Branchcount, syntax.Lazybranchcount:
			if total += rounds[len(rounds)-1]; total > MaxSteps || len(rounds) == 1 {
				return tooMany
			}
			rounds = rounds[:len(rounds)-1]
		}
		i += size(op)
	}
	return total
}

const tooMany = MaxSteps + 1

// size is that of an instruction, with its operands.
func size(op syntax.InstOp) int {
	switch op {
	case syntax.One, syntax.Notone, syntax.Multi, syntax.Ref, syntax.Testref, syntax.Goto, syntax.Nullcount, syntax.Setcount, syntax.Lazybranch,
		syntax.Branchmark, syntax.Lazybranchmark, syntax.Set, syntax.Prune:
		return 2
	case syntax.Capturemark, syntax.Branchcount, syntax.Lazybranchcount, syntax.Onerep, syntax.Notonerep, syntax.Setrep,
		syntax.Oneloop, syntax.Notoneloop, syntax.Setloop, syntax.Onelazy, syntax.Notonelazy, syntax.Setlazy:
		return 3
	}
	return 1
}
