package fsmount

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"
)

func TestDoomed(t *testing.T) {
	set := func(signals ...unix.Signal) (set uint64) {
		for _, s := range signals {
			set |= 1 << (s - 1)
		}
		return set
	}
	type state struct {
		tracer                             int
		own, all, blocked, ignored, caught uint64
	}
	for name, tt := range map[string]struct {
		state
		want bool
	}{
		"nothing":              {state{}, false},
		"killed":               {state{own: set(unix.SIGKILL)}, true},
		"killed, and debugged": {state{tracer: 7, own: set(unix.SIGKILL)}, true},
		"killed at its end":    {state{own: set(unix.SIGKILL), blocked: ^uint64(0)}, true},
		"quit":                 {state{all: set(unix.SIGQUIT)}, true},
		"quit, to the thread":  {state{own: set(unix.SIGQUIT)}, true},
		"quit, and debugged":   {state{tracer: 7, own: set(unix.SIGQUIT)}, false},
		"blocked":              {state{all: set(unix.SIGQUIT), blocked: set(unix.SIGQUIT)}, false},
		"ignored":              {state{all: set(unix.SIGINT), ignored: set(unix.SIGINT)}, false},
		"handled":              {state{own: set(unix.SIGINT), all: set(unix.SIGALRM), caught: set(unix.SIGINT, unix.SIGALRM)}, false},
		"one of two":           {state{own: set(unix.SIGINT), all: set(unix.SIGABRT), caught: set(unix.SIGINT)}, true},
		"a child, a window":    {state{all: set(unix.SIGCHLD, unix.SIGWINCH, unix.SIGURG, unix.SIGCONT)}, false},
		"stopped":              {state{all: set(unix.SIGTSTP), own: set(unix.SIGSTOP)}, false},
		"the last signal":      {state{own: 1 << 63}, true},
	} {
		s := tt.state
		text := fmt.Sprintf("Name:\tSigPnd:\nTracerPid:\t%d\nThreads:\t2\nSigQ:\t1/127\nSigPnd:\t%016x\nShdPnd:\t%016x\nSigBlk:\t%016x\nSigIgn:\t%016x\nSigCgt:\t%016x\nCapInh:\t00\n",
			s.tracer, s.own, s.all, s.blocked, s.ignored, s.caught)
		if got := doomed([]byte(text)); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func FuzzDoomed(f *testing.F) {
	f.Add([]byte("TracerPid:\t0\nSigPnd:\t0000000000000100\n"))
	f.Add([]byte("\n:\nSigPnd\nSigBlk:\t-"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if doomed(b) && !doomed(append([]byte("SigPnd:\n"), b...)) {
			t.Error("a line without a number counts")
		}
	})
}
