// Package program knows the programs that a session treats in a way of their own: those that
// run outside of it, and the ports of debuggers, which belong to the laptop. It decides by what
// a process says of itself and touches no process.
package program

import (
	"path/filepath"

	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/intercept"
)

// buildTools are the file names of programs that build, fetch sources or watch them, and of debuggers that
// start what they debug. The programs that they run in the end are not among them.
var buildTools = []string{
	"air", "as", "asm", "cargo", "cargo-watch", "cc", "cc1", "cc1plus", "cgo", "collect2", "compile", "debugserver", "dlv",
	"g++", "gcc", "git", "git-remote-http", "git-remote-https", "go", "hpack", "jspawnhelper", "ld", "link", "rustc",
}

// maxName is the longest name of a process (TASK_COMM_LEN without its zero): longer ones are cut.
const maxName = 15

// Skips are programs that run outside of the session.
type Skips struct {
	files map[string]bool
	// names of processes, for scripts, whose file is that of their interpreter; empty unless the user gave some.
	names map[string]bool
}

// NewSkips reads the configuration.
func NewSkips(c *config.Config) *Skips {
	s := &Skips{files: make(map[string]bool), names: make(map[string]bool)}
	if c.SkipBuildTools {
		for _, name := range buildTools {
			s.files[name] = true
		}
		s.add(c.SkipExtraBuildTools)
	}
	s.add(c.SkipProcesses)
	return s
}

func (s *Skips) add(names []string) {
	for _, name := range names {
		if name == "" {
			continue
		}
		s.files[name] = true
		s.names[name[:min(len(name), maxName)]] = true
	}
}

// Empty says that nothing runs outside.
func (s *Skips) Empty() bool { return len(s.files) == 0 }

// Has says whether the program runs outside.
func (s *Skips) Has(p intercept.Program) bool {
	if file := p.File(); file != "" && s.files[filepath.Base(file)] {
		return true
	}
	return len(s.names) > 0 && s.names[p.Name()]
}
