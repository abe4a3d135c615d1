// Package progress tells the user what a command is doing, on standard error: which step,
// how long it took, what the session will do and why, and later what happens to it.
//
// Standard output belongs to the local process, and so does the terminal once it runs:
// after [Reporter.Started] there are only events, one line each.
package progress

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"
)

// Mode is how progress is shown.
type Mode string

// The modes.
const (
	// Auto is Plain, with the current step in one line that changes on a terminal.
	Auto Mode = "auto"
	// Plain is text, one line for what is done.
	Plain Mode = "plain"
	// JSON is one [Line] of JSON each.
	JSON Mode = "json"
	// Off shows only problems.
	Off Mode = "off"
)

// Modes lists them for help texts.
const Modes = "auto, plain, json or off"

// ParseMode reads a mode as a flag spells it.
func ParseMode(s string) (Mode, error) {
	switch m := Mode(s); m {
	case Auto, Plain, JSON, Off:
		return m, nil
	}
	return "", fmt.Errorf("unknown kind of progress %q: choose %s", s, Modes)
}

// Line is one line of the JSON mode. Fields that do not apply are left out; new ones may
// come.
type Line struct {
	// Time is when it was written, in RFC 3339 with fractions of a second.
	Time time.Time `json:"time"`
	// Event is phase, summary, warning, started, exit, or the kind of an event of the
	// session: port-subscribed, port-failed, port-given-back, pod-joined, pod-left,
	// waiting, notice, tunnel-paused, tunnel-resumed, tunnel-lost.
	Event string `json:"event"`
	// Name is the phase's stable name, such as target, agent, operator, pod, tunnel, environment, start.
	Name string `json:"name,omitempty"`
	// State of a phase: started, done or failed.
	State string `json:"state,omitempty"`
	// Seconds is how long a phase took; for started, the time since the command began.
	Seconds *float64 `json:"seconds,omitempty"`
	// Level is info or warning, for the events of the session.
	Level string `json:"level,omitempty"`
	// Text is for people.
	Text string `json:"text,omitempty"`
	// Error is why a phase failed.
	Error string `json:"error,omitempty"`
	// Port is the target's port that an event is about.
	Port uint16 `json:"port,omitempty"`
	// PID is the local process's.
	PID int `json:"pid,omitempty"`
	// Code is the exit code, for exit.
	Code *int `json:"code,omitempty"`
	// Summary is what the session does.
	Summary *Summary `json:"summary,omitempty"`
}

// slow is when a step that has no line of its own yet deserves one.
const slow = 3 * time.Second

// Reporter writes progress. Its methods may be called at once from any goroutine. Failures
// to write are ignored: a session does not end because nobody reads along.
type Reporter struct {
	out      io.Writer
	mode     Mode
	terminal bool
	began    time.Time

	mu      sync.Mutex
	line    *step // whose text is on the terminal's current line
	started bool
}

// step is one phase under way.
type step struct {
	name, text string
	began      time.Time
	slow       *time.Timer
}

// New makes a reporter. Terminal says that out is one. The zero mode is [Auto].
func New(out io.Writer, mode Mode, terminal bool) *Reporter {
	r := &Reporter{out: out, mode: mode, began: time.Now()}
	if mode == "" || mode == Auto {
		r.mode, r.terminal = Plain, terminal
	}
	return r
}

// Phase starts a step. Name is stable, for programs; text says what is being done. The
// returned function ends the step and is called exactly once.
func (r *Reporter) Phase(name, text string) (end func(error)) {
	s := &step{name: name, text: clean(text), began: time.Now()}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.mode == JSON:
		r.json(Line{Event: "phase", Name: name, State: "started", Text: s.text})
	case r.mode == Off, r.started:
	case r.terminal:
		r.clear()
		r.print("• " + shorten(s.text) + " …")
		r.line = s
	default:
		s.slow = time.AfterFunc(slow, func() {
			r.mu.Lock()
			defer r.mu.Unlock()
			if s.slow != nil {
				r.print("• " + s.text + " …\n")
			}
		})
	}
	return func(err error) { r.end(s, err) }
}

func (r *Reporter) end(s *step, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	took := time.Since(s.began)
	if s.slow != nil {
		s.slow.Stop()
		s.slow = nil
	}
	if r.mode == JSON {
		l := Line{Event: "phase", Name: s.name, State: "done", Seconds: seconds(took)}
		if err != nil {
			l.State, l.Error = "failed", clean(err.Error())
		}
		r.json(l)
		return
	}
	if r.mode == Off || r.started {
		return
	}
	r.clear()
	mark := "✓"
	if err != nil {
		// The error itself is the command's to print, once.
		mark = "✗"
	}
	r.print(fmt.Sprintf("%s %s (%s)\n", mark, s.text, short(took)))
}

// Warning shows something that the user should know before the process runs.
func (r *Reporter) Warning(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	text = clean(text)
	if r.mode == JSON {
		r.json(Line{Event: "warning", Level: "warning", Text: text})
		return
	}
	r.clear()
	r.print("! " + text + "\n")
}

// Summary shows what the session does.
func (r *Reporter) Summary(s Summary) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch r.mode {
	case JSON:
		r.json(Line{Event: "summary", Summary: &s})
	case Off:
	default:
		r.clear()
		r.print(s.text())
	}
}

// Started says that the process runs: from here on the terminal is its.
func (r *Reporter) Started(pid int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clear()
	r.started = true
	if r.mode == JSON {
		r.json(Line{Event: "started", PID: pid, Seconds: seconds(time.Since(r.began))})
	}
}

// Event shows something that happened while the process runs. Port is 0 when it is about
// none.
func (r *Reporter) Event(kind string, warning bool, text string, port uint16) {
	r.mu.Lock()
	defer r.mu.Unlock()
	text = clean(text)
	switch {
	case r.mode == JSON:
		l := Line{Event: kind, Level: "info", Text: text, Port: port}
		if warning {
			l.Level = "warning"
		}
		r.json(l)
	case r.mode == Off && !warning:
	default:
		r.clear()
		end := "\n"
		if r.terminal && r.started {
			end = "\r\n" // the process may have put the terminal into raw mode
		}
		r.print("mirrord: " + text + end)
	}
}

// Exit says how the command ends.
func (r *Reporter) Exit(code int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clear()
	if r.mode == JSON {
		r.json(Line{Event: "exit", Code: &code})
	}
}

// clear makes room in the terminal's current line.
func (r *Reporter) clear() {
	if r.line != nil {
		r.print("\r\x1b[K")
		r.line = nil
	}
}

func (r *Reporter) print(s string) { _, _ = io.WriteString(r.out, s) }

func (r *Reporter) json(l Line) {
	l.Time = time.Now()
	b, err := json.Marshal(l)
	if err != nil {
		return // unreachable: Line has only plain fields
	}
	_, _ = r.out.Write(append(b, '\n'))
}

func seconds(d time.Duration) *float64 {
	s := d.Seconds()
	return &s
}

// short is a duration for people: 3 digits at most.
func short(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return fmt.Sprintf("%.0f s", d.Seconds())
}

// clean makes a text of others harmless for a terminal, and one line.
func clean(s string) string {
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == utf8.RuneError {
			return '?'
		}
		return r
	}, s)
}

// shorten keeps a changing line on one line of a terminal of usual width.
func shorten(s string) string {
	const width = 72
	if r := []rune(s); len(r) > width {
		return string(r[:width])
	}
	return s
}
