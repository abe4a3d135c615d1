package iostreams

import (
	"os"
	"testing"
)

// Editors show what programs write to them line by line, and say so with TERM=dumb.
func TestDumbTerminal(t *testing.T) {
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skip("this machine gives no terminal: ", err)
	}
	defer terminal.Close()
	for kind, want := range map[string]bool{"xterm-256color": true, "": true, "dumb": false} {
		if got := isTerminal(terminal, kind); got != want {
			t.Errorf("TERM=%s: %t, want %t", kind, got, want)
		}
	}
}
