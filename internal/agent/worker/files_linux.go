package worker

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/mirrord-go/mirrord/internal/agent/files"
	"github.com/mirrord-go/mirrord/internal/agent/target"
	"github.com/mirrord-go/mirrord/internal/grant"
	"github.com/mirrord-go/mirrord/internal/targetfs"
	"github.com/mirrord-go/mirrord/internal/tunnel"
	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

// maxFilesStreams bounds the streams about files that a client has open: each has files and threads of its own. A
// client needs one, and another while the first one ends.
const maxFilesStreams = 2

// files serves the target's files, as far as the grant has them.
func (l *link) files(st tunnel.Stream) error {
	defer l.filing.Add(-1)
	if l.filing.Add(1) > maxFilesStreams {
		_ = st.Reset()
		return fmt.Errorf("more than %d streams about files", maxFilesStreams)
	}
	_ = st.SetReadDeadline(time.Time{})
	root, err := l.session.openFiles()
	if err != nil {
		_ = st.Reset()
		return err
	}
	defer root.Close()
	return targetfs.Serve(l.ctx, st, root)
}

// errNoProcess says that there are no files without a process whose they are.
var errNoProcess = errors.New("the target's process can't be seen from here, so its files are out of reach")

func (s *session) openFiles() (*files.Root, error) {
	if err := s.rules.Load().enforcer.Files(); err != nil {
		s.refuse(err, 0)
		return nil, err
	}
	if s.place.process == nil {
		return nil, errNoProcess
	}
	return files.Open(s.place.process, fileRules{s})
}

// welcomeFiles says what the session has of the target's files.
func (s *session) welcomeFiles(m *wire.Welcome) {
	m.Can = append(m.Can, wire.CanFiles)
	rules := s.rules.Load()
	m.FileRules = rules.files
	if err := rules.enforcer.Files(); err != nil {
		m.FilesProblem = err.Error()
		return
	}
	m.FilesProblem = filesProblem(s.w.Targetless, s.place.process)
}

// filesProblem tries whether the target's files can be reached.
func filesProblem(targetless bool, p *target.Process) string {
	switch {
	case targetless:
		return noTarget
	case p == nil:
		return errNoProcess.Error()
	}
	root, err := files.Open(p, fileRules{})
	if err != nil {
		return err.Error()
	}
	_ = root.Close()
	return ""
}

// fileRulesOf are those of the grant, for the client.
func fileRulesOf(g grant.Grant) []wire.FileRules {
	var all []wire.FileRules
	for _, f := range g.Files {
		all = append(all, wire.FileRules(f))
	}
	return all
}

// fileRules are a session's, as they are when they are asked.
type fileRules struct{ s *session }

// Judge implements [files.Rules]. The user reads of what may not be changed; what is hidden is nothing to talk about.
func (f fileRules) Judge(name string, write bool) error {
	err := f.s.rules.Load().enforcer.File(name, write)
	if err == nil {
		return nil
	}
	if r, ok := errors.AsType[*grant.Refusal](err); ok && r.Hides() {
		return &targetfs.Error{Op: "find", Path: name, Errno: syscall.ENOENT}
	}
	f.s.refuse(err, 0)
	return &targetfs.Error{Op: "open", Path: name, Errno: syscall.EACCES, Reason: err.Error()}
}

// ByName implements [files.Rules].
func (f fileRules) ByName() bool { return f.s.rules.Load().enforcer.FilesByName() }
