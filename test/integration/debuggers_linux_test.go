package integration

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mirrord-go/mirrord/internal/config"
)

// shopPort is the pod's, which sessions steal.
const shopPort = "8080"

// TestDebuggers runs debuggers as their users do. Each stops a program of a session at a request that a client of the
// pod made, reads a variable, and lets it go on: the answer has what the program asked the cluster for meanwhile.
func TestDebuggers(t *testing.T) {
	s := newTools(t, "dlv", "gdb", "node", "python with debugpy", "shop", "shop in C")
	s.each(t, []toolTest{
		{"dlv exec", delveExec},
		{"dlv debug", delveDebug},
		{"dlv attach in the session", delveAttachInside},
		{"dlv attach from outside", delveAttachOutside},
		{"gdb as parent", gdbParent},
		{"gdb attached", gdbAttached},
		{"debugpy", debugpy},
		{"node --inspect", nodeInspect},
	})
}

// session starts a command with what a user has who asks for stealing and nothing else.
func (w *world) session(t *testing.T, command ...string) *run {
	t.Helper()
	cfg := everythingRemote(incoming(config.IncomingSteal))
	cfg.SkipBuildTools = true
	return w.startWith(t, cfg, command...)
}

// says waits for a line of a session's program.
func (r *run) says(line string) {
	r.t.Helper()
	if err := r.out.await(r.t.Context(), line); err != nil {
		r.t.Fatal(err)
	}
}

// request is that of a client of the pod, on its way.
type request struct {
	t      *testing.T
	answer chan string
}

// request sends a line to the pod until it is not the pod itself that answers.
func (w *world) request(t *testing.T, line string) *request {
	t.Helper()
	q := &request{t: t, answer: make(chan string, 1)}
	go func() {
		for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
			got, err := w.ask(podApp, line)
			if err != nil {
				got = err.Error()
			}
			if (err == nil && !strings.HasPrefix(got, "pod saw ")) || time.Now().After(deadline) {
				q.answer <- got
				return
			}
		}
	}()
	return q
}

// waits checks that there is no answer: the program is stopped.
func (q *request) waits() {
	q.t.Helper()
	select {
	case got := <-q.answer:
		q.t.Errorf("the program is stopped, and its client has %q", got)
		q.answer <- got
	default:
	}
}

// answered checks the answer of a shop, which knows its client, and was the pod when it asked the cluster.
func (q *request) answered(shop, line string) {
	q.t.Helper()
	want := fmt.Sprintf("%s asked by %s; service saw %s: %s", shop, clusterIP, podIP, line)
	if got := <-q.answer; got != want {
		q.t.Errorf("the pod's client got %q, want %q", got, want)
	}
}

// bye ends the session's program, and with it the session.
func (w *world) bye(t *testing.T, r *run) {
	t.Helper()
	if got := <-w.request(t, "bye").answer; got != "bye" {
		t.Errorf("the answer is %q", got)
	}
	r.succeeds()
}

// succeeds waits for the end of a session that took nothing but the shop's port.
func (r *run) succeeds() {
	r.t.Helper()
	if r.wait(); r.err != nil || r.status.Code != 0 {
		r.t.Errorf("exit code %d, %v\n%s", r.status.Code, r.err, strings.Join(r.out.all(), "\n"))
	}
	for len(r.events) > 0 {
		if e := <-r.events; e.Kind == "port-subscribed" && e.Port != podApp.Port() {
			r.t.Errorf("the session was %s", e.Text)
		}
	}
}

// staysLocal checks that a debugger's port is not taken from the pod, where nobody listens on it.
func (w *world) staysLocal(t *testing.T, port uint16) {
	t.Helper()
	c, err := w.dialFrom(w.cluster, netip.AddrPortFrom(podIP, port))
	if err == nil {
		_ = c.Close()
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("port %d of the pod: %v, want a refusal", port, err)
	}
}

// delve's usual port.
const delvePort = 2345

var delveListen = fmt.Sprintf("127.0.0.1:%d", delvePort)

// delveTalks debugs through dlv's client in another terminal. start lets the program run that was not started yet.
func delveTalks(t *testing.T, w *world, s *tools, attached bool) *dialogue {
	t.Helper()
	d := talk(t, s.need(t, "dlv"), "connect", delveListen)
	d.expect("(dlv)")
	d.say("break main.answer")
	d.expect("Breakpoint 1 set at")
	d.say("continue")
	q := w.request(t, "hello")
	d.expect("> [Breakpoint 1] main.answer")
	d.say("print line")
	d.expect(`"hello"`)
	q.waits()
	d.say("clear 1")
	d.expect("Breakpoint 1 cleared")
	if attached {
		d.say("exit")
		d.expect("kill the process")
		d.say("no")
	} else {
		d.say("continue")
	}
	q.answered("go v1", "hello")
	return d
}

func delveExec(t *testing.T, w *world, s *tools) {
	r := w.session(t, s.need(t, "dlv"), "exec", "--headless", "--listen", delveListen, s.need(t, "shop"), "--", shopPort)
	delveRuns(t, w, s, r)
}

func delveDebug(t *testing.T, w *world, s *tools) {
	t.Setenv("CGO_ENABLED", "0") // as the shop was built before
	r := w.session(t, s.need(t, "dlv"), "debug", "--headless", "--listen", delveListen, "--output", filepath.Join(s.Dir, "debugged"), "./testdata/shop", "--", shopPort)
	delveRuns(t, w, s, r)
}

func delveRuns(t *testing.T, w *world, s *tools, r *run) {
	t.Helper()
	r.says("API server listening at: " + delveListen)
	w.staysLocal(t, delvePort)
	d := delveTalks(t, w, s, false)
	if got := <-w.request(t, "bye").answer; got != "bye" {
		t.Errorf("the answer is %q", got)
	}
	d.expect("has exited with status 0")
	d.say("exit")
	r.succeeds()
}

func delveAttachInside(t *testing.T, w *world, s *tools) {
	r := w.session(t, "sh", "-c", `"$1" "$2" & "$0" attach --headless --listen "$3" $!; wait $!`,
		s.need(t, "dlv"), s.need(t, "shop"), shopPort, delveListen)
	r.says("API server listening at: " + delveListen)
	w.staysLocal(t, delvePort)
	delveTalks(t, w, s, true)
	w.bye(t, r)
}

func delveAttachOutside(t *testing.T, w *world, s *tools) {
	r := w.session(t, s.need(t, "shop"), shopPort)
	r.says("listening v1")
	server := talk(t, s.need(t, "dlv"), "attach", "--headless", "--listen", delveListen, strconv.Itoa(r.pid))
	server.expect("API server listening at: " + delveListen)
	delveTalks(t, w, s, true)
	w.bye(t, r)
}

func gdbParent(t *testing.T, w *world, s *tools) {
	r := w.session(t, s.need(t, "gdb"), "-nx", "-q", "-batch", "-ex", "set debuginfod enabled off", "-ex", "break answer", "-ex", "run",
		"-ex", "print line", "-ex", "delete", "-ex", "continue", "--args", s.need(t, "shop in C"), shopPort)
	w.request(t, "hello").answered("c v1", "hello")
	w.bye(t, r)
	out := strings.Join(r.out.all(), "\n")
	for _, want := range []string{"Breakpoint 1, answer", `$1 = 0x`, `"hello"`, "exited normally"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}

// gdbAttached stops a program that waits for its next client.
func gdbAttached(t *testing.T, w *world, s *tools) {
	r := w.session(t, s.need(t, "shop in C"), shopPort)
	r.says("listening v1")
	d := talk(t, s.need(t, "gdb"), "-nx", "-q", "-ex", "set debuginfod enabled off", "-p", strconv.Itoa(r.pid))
	d.expect("(gdb)")
	d.say("break answer")
	d.expect("Breakpoint 1 at")
	d.say("continue")
	q := w.request(t, "hello")
	d.expect("Breakpoint 1, answer")
	d.say("print line")
	d.expect(`"hello"`)
	q.waits()
	d.say("delete")
	d.say("detach")
	d.expect("detached]")
	q.answered("c v1", "hello")
	w.bye(t, r)
}

// debugpyPort is debugpy's usual one.
const debugpyPort = 5678

// debugpy waits for an editor, which speaks the Debug Adapter Protocol.
func debugpy(t *testing.T, w *world, s *tools) {
	python := s.need(t, "python with debugpy")
	source, err := filepath.Abs("testdata/shop.py")
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", debugpyPort)
	// Its two processes wait 10 and 15 seconds for each other, which a busy machine may take longer for.
	t.Setenv("DEBUGPY_PROCESS_SPAWN_TIMEOUT", "60")
	r := w.session(t, "sh", "-c", `for i in 1 2 3; do "$@" && exit; done`, "sh", python, "-m", "debugpy", "--listen", address, "--wait-for-client", source, shopPort)
	e := newEditor(t, address)
	w.staysLocal(t, debugpyPort)
	e.ask("initialize", map[string]any{"adapterID": "test", "pathFormat": "path", "linesStartAt1": true})
	attached := e.send("attach", map[string]any{"justMyCode": true})
	e.event("initialized")
	breakpoints := func(lines ...int) {
		list := []map[string]any{}
		for _, n := range lines {
			list = append(list, map[string]any{"line": n})
		}
		e.ask("setBreakpoints", map[string]any{"source": map[string]any{"path": source}, "breakpoints": list})
	}
	breakpoints(lineOf(t, source, "with socket.create_connection"))
	e.ask("configurationDone", nil)
	e.reply(attached)
	q := w.request(t, "hello")
	thread := e.event("stopped").ThreadID
	frames := e.ask("stackTrace", map[string]any{"threadId": thread}).StackFrames
	if len(frames) == 0 || frames[0].Name != "answer" {
		t.Fatalf("stopped in %v", frames)
	}
	if got := e.ask("evaluate", map[string]any{"expression": "line", "frameId": frames[0].ID}).Result; got != "'hello'" {
		t.Errorf("the line is %s", got)
	}
	q.waits()
	breakpoints()
	e.ask("continue", map[string]any{"threadId": thread})
	q.answered("python v1", "hello")
	w.bye(t, r)
}

// lineOf is the number of the first line with a text.
func lineOf(t *testing.T, file, text string) int {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, _, found := strings.Cut(string(b), text)
	if !found {
		t.Fatalf("no %q in %s", text, file)
	}
	return strings.Count(before, "\n") + 1
}

// inspectPort is that of node --inspect.
const inspectPort = 9229

func nodeInspect(t *testing.T, w *world, s *tools) {
	node := s.need(t, "node")
	r := w.session(t, node, "--inspect", "testdata/shop.js", shopPort)
	r.says("listening v1")
	w.staysLocal(t, inspectPort)
	d := talk(t, node, "inspect", fmt.Sprintf("127.0.0.1:%d", inspectPort))
	d.expect("debug>")
	line := lineOf(t, "testdata/shop.js", "const c = net.connect")
	d.say(fmt.Sprintf("setBreakpoint('shop.js', %d)", line))
	d.expect(fmt.Sprintf("> %d ", line)) // it is set, and shown
	q := w.request(t, "hello")
	d.expect("break in ")
	d.say("exec('line')")
	d.expect("'hello'")
	q.waits()
	d.say("cont")
	q.answered("node v1", "hello")
	d.say(".exit")
	w.bye(t, r)
}
