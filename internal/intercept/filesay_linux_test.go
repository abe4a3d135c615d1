//go:build amd64 || arm64

package intercept

import (
	"strconv"
	"testing"
)

// A program that meets a rule with very many files does not flood its user.
func TestSaid(t *testing.T) {
	told := map[string]int{}
	f := &FileServer{Files: Files{Notice: func(text string) { told[text]++ }}}
	for range 2 {
		f.sayFirst("kind", "a")
		f.sayFirst("kind", "b")
		for i := range 10 * maxSaid {
			f.say(strconv.Itoa(i))
		}
	}
	if told["a"] != 1 || told["b"] != 0 || told["0"] != 1 || len(told) != maxSaid+1 {
		t.Errorf("%d texts, of which the first ones %d, %d and %d times", len(told), told["a"], told["b"], told["0"])
	}
	(&FileServer{}).say("to nobody")
}
