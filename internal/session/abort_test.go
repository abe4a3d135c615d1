package session_test

import (
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mirrord-go/mirrord/internal/session"
	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

// TestAbort: what the user wants to be the end of the session is, with the reason and how it would
// go on; without the wish, the same is told and the process runs on.
func TestAbort(t *testing.T) {
	const taken, refused = "port 80 is stolen already, by session s-2 of bob", "a TCP connection to 10.0.0.1:80 is forbidden by policy strict"
	for name, test := range map[string]struct {
		taken, refused bool // the wishes
		want           string
	}{
		"a port that is taken":         {true, false, taken + "; ending the local process (with \"on_concurrent_steal\" \"continue\""},
		"what a policy refuses":        {false, true, refused + "; ending the local process (without --abort-on-refusal"},
		"nothing of it ends a session": {false, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRun(t)
			r.abortTaken, r.abortRefused = test.taken, test.refused
			answer := r.script.Control
			r.script.Control = func(m wire.Control) *wire.Result {
				if m.Subscribe != nil {
					return &wire.Result{Error: taken, Errno: wire.Errno(syscall.EADDRINUSE)}
				}
				return answer(m)
			}
			l, err := listenAsked(func(netip.AddrPort) {})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			go func() {
				<-r.observer.started
				if !test.refused {
					r.network().Listening(l.Addr().(*net.TCPAddr).AddrPort())
				}
				if !test.taken {
					r.agent.far().Say(wire.Control{Notice: &wire.Notice{Level: "warning", Text: refused, Refused: true}})
				}
				if test.want == "" {
					for r.observer.heard("notice: "+refused) == 0 || r.observer.heard("port-failed: ") == 0 {
						select {
						case <-t.Context().Done():
							return
						case <-time.After(time.Millisecond):
						}
					}
					_ = r.child.Process.Kill()
				}
			}()
			status, err := r.run(t.Context(), "sleep", "60")
			said := r.observer.all()
			if test.want == "" {
				if err != nil || status.Code != 128+int(syscall.SIGKILL) {
					t.Errorf("the session ended with %+v, %v; the user was told %q", status, err, said)
				}
				return
			}
			if err == nil || !slices.ContainsFunc(said, func(s string) bool {
				return strings.HasPrefix(s, "tunnel-lost: ") && strings.Contains(s, test.want)
			}) {
				t.Errorf("error %v; the user was told %q", err, said)
			}
			r.cleaned()
		})
	}
}

// A process that exits at what a policy refused may be faster than the word of it: the session has
// failed all the same, and the user is told.
func TestAbortOfAProcessThatHasExited(t *testing.T) {
	const refused, later = "a TCP connection to 10.0.0.1:80 is forbidden by policy strict", "a later notice"
	r := newRun(t)
	r.abortRefused = true
	r.observer.hook = func(said string) {
		if !strings.HasPrefix(said, "notice: the process left") {
			return
		}
		// The process has exited, and the session looks after what it left.
		r.agent.far().Say(wire.Control{Notice: &wire.Notice{Level: "warning", Text: refused, Refused: true}})
		r.agent.far().Say(wire.Control{Notice: &wire.Notice{Level: "info", Text: later}})
		until(t, "the notices have arrived", func() bool { return r.observer.heard("notice: "+later) > 0 })
	}
	left := exec.Command("sleep", "60")
	left.Env = []string{session.IDVariable + "=s1"}
	if err := left.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = left.Process.Kill(); _ = left.Wait() }()
	status, err := r.run(t.Context(), "true")
	if status.Code != 1 || err == nil || err.Error() != refused {
		t.Errorf("exit code %d, error %v", status.Code, err)
	}
	if r.observer.heard("tunnel-lost: "+refused+"; the local process has ended (without --abort-on-refusal") != 1 {
		t.Errorf("the user was told %q", r.observer.all())
	}
	r.cleaned()
}
