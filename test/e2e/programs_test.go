package e2e

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/mirrord-go/mirrord/internal/cli/progress"
)

// program is a real program, in one of many languages, whose network the sessions of these
// tests change. All of them take steps as arguments, do them in turn, and print a line for
// each: the step, a tab, and its result, which is an errno's name or "nxdomain" when it failed.
//
//	tcp HOST PORT       GET / by HTTP/1.0; the last line of the answer
//	udp HOST PORT       "hello" on a connected socket; the answer
//	udpto HOST PORT     the same on a socket that is not connected
//	unix NAME           as tcp, over a Unix socket: a path, or @ and an abstract name
//	resolve NAME        the addresses of the name
//	listen PORT NAME    an HTTP server on every address; it answers with a [request], and
//	                    prints the same line; "listening NAME PORT" when it is ready
type program struct {
	name string
	// argv comes before the steps.
	argv []string
	// steps are those that it has.
	steps []string
	// missing says why it can't be run here.
	missing string
}

// request is what a program that listens says about a request.
type request struct {
	Name   string `json:"name"`
	Peer   string `json:"peer"`
	Method string `json:"method"`
	Path   string `json:"path"`
	Agent  string `json:"agent"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// allSteps are the steps of a program that is no shell script.
var allSteps = []string{"tcp", "udp", "udpto", "resolve", "listen"}

// compiled are the programs, once they are compiled.
var compiled struct {
	once sync.Once
	list []program
}

// programs returns every program, also those that are missing here. The programs are in
// built.dir: [newStage] comes first.
func programs(t *testing.T) []program {
	t.Helper()
	compiled.once.Do(func() {
		src, err := filepath.Abs("programs")
		if err != nil {
			t.Fatal(err)
		}
		compiled.list = compile(src, built.dir)
	})
	return compiled.list
}

// compile makes the programs from their sources into dir.
func compile(src, dir string) []program {
	file := func(name string) string { return filepath.Join(src, name) }
	out := func(name string) string { return filepath.Join(dir, name) }
	list := []program{
		{name: "go-static", argv: []string{out("go-static")}},
		{name: "go-dynamic", argv: []string{out("go-dynamic")}},
		{name: "python", argv: []string{"python3", file("net.py")}},
		{name: "node", argv: []string{"node", file("net.js")}},
		{name: "java", argv: []string{"java", "-XX:TieredStopAtLevel=1", "-cp", dir, "Net"}},
		{name: "c-musl-static", argv: []string{out("c-musl")}},
		{name: "c-glibc", argv: []string{out("c-glibc")}},
		{name: "shell-tree", argv: []string{"bash", file("net.sh")}},
		{name: "curl", argv: []string{"sh", file("curl.sh")}, steps: []string{"tcp", "resolve"}},
	}
	makers := map[string][][]string{
		"go-static":     {{"env", "CGO_ENABLED=0", "go", "build", "-o", out("go-static"), file("gonet")}},
		"go-dynamic":    {{"gcc", "--version"}, {"env", "CGO_ENABLED=1", "go", "build", "-tags", "netcgo", "-o", out("go-dynamic"), file("gonet")}},
		"python":        {{"python3", "--version"}},
		"node":          {{"node", "--version"}},
		"java":          {{"java", "-version"}, {"javac", "-d", dir, file("Net.java")}},
		"c-musl-static": {{"musl-gcc", "-static", "-O2", "-Wall", "-Werror", "-o", out("c-musl"), file("net.c")}},
		"c-glibc":       {{"gcc", "-O2", "-Wall", "-Werror", "-o", out("c-glibc"), file("net.c")}},
		"shell-tree":    {{"bash", "--version"}, {"python3", "--version"}, {"getent", "--version"}},
		"curl":          {{"curl", "--version"}},
	}
	for i := range list {
		p := &list[i]
		if p.steps == nil {
			p.steps = allSteps
		}
		for _, m := range makers[p.name] {
			if b, err := exec.Command(m[0], m[1:]...).CombinedOutput(); err != nil {
				p.missing = strings.TrimSpace(fmt.Sprintf("%s: %v\n%s", strings.Join(m, " "), err, b))
				break
			}
		}
	}
	return list
}

// need skips the test of a program that is missing, or fails it with MIRRORD_E2E=require.
func (p program) need(t *testing.T) {
	t.Helper()
	switch {
	case p.missing == "":
	case os.Getenv("MIRRORD_E2E") == "require":
		t.Fatalf("MIRRORD_E2E=require, but: %s", p.missing)
	default:
		t.Skipf("no %s here: %s", p.name, p.missing)
	}
}

// has tells whether the program is here and has the step.
func (p program) has(step string) bool {
	return p.missing == "" && slices.Contains(p.steps, step)
}

// command is the program with those of the steps that it has.
func (p program) command(steps ...string) []string {
	argv := slices.Clone(p.argv)
	for _, s := range steps {
		if words := strings.Fields(s); p.has(words[0]) {
			argv = append(argv, words...)
		}
	}
	return argv
}

// direct runs steps without a session.
func (p program) direct(t *testing.T, steps ...string) results {
	t.Helper()
	argv := p.command(steps...)
	out, err := exec.CommandContext(t.Context(), argv[0], argv[1:]...).Output()
	if err != nil {
		t.Fatalf("%s: %v", p.name, err)
	}
	return readResults(string(out))
}

// results are what a program has printed, by step.
type results map[string]string

func readResults(out string) results {
	r := results{}
	for line := range strings.Lines(out) {
		if step, result, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "\t"); ok {
			r[step] = result
		}
	}
	return r
}

// peer is the peer that a tcp or udp step was told about by the workload on the other end.
func (r results) peer(t *testing.T, step string) netip.Addr {
	t.Helper()
	result, ok := r[step]
	if !ok {
		t.Errorf("%s: no result", step)
		return netip.Addr{}
	}
	var echo struct{ Peer string }
	text := ""
	if json.Unmarshal([]byte(result), &echo) == nil {
		text = echo.Peer
	} else if words := strings.Fields(result); len(words) == 3 && words[2] == "hello" {
		text = words[1]
	}
	ap, err := netip.ParseAddrPort(text)
	if err != nil {
		t.Errorf("%s: %s", step, result)
	}
	return ap.Addr().Unmap()
}

// addresses is the result of a resolve step in order, for comparisons: addresses, or an error.
func (r results) addresses(step string) string {
	return inOrder(strings.Fields(r[step]))
}

func inOrder(addresses []string) string {
	list := slices.Clone(addresses)
	for i, a := range list {
		if ip, err := netip.ParseAddr(a); err == nil {
			list[i] = ip.Unmap().String()
		}
	}
	slices.Sort(list)
	return strings.Join(slices.Compact(list), " ")
}

// inTurn is a shell that runs the steps with one program after the other. [eachResult] takes
// its output apart.
func inTurn(list []program, steps ...string) []string {
	var script strings.Builder
	for _, p := range list {
		if argv := p.command(steps...); p.missing == "" && len(argv) > len(p.argv) {
			fmt.Fprintf(&script, "echo '== %s'\n%s\n", p.name, quote(argv))
		}
	}
	return []string{"sh", "-c", script.String()}
}

// eachResult returns the results of each program of [inTurn], by name.
func eachResult(out string) map[string]results {
	all := map[string]results{}
	for part := range strings.SplitSeq("\n"+out, "\n== ") {
		name, lines, _ := strings.Cut(part, "\n")
		all[name] = readResults(lines)
	}
	return all
}

// listeners are programs that listen, each on a port of its own.
type listeners struct {
	list  []program
	ports map[string]uint16
}

// newListeners chooses a port for every program that can listen.
func newListeners(t *testing.T) listeners {
	t.Helper()
	l := listeners{ports: map[string]uint16{}}
	for _, p := range programs(t) {
		if slices.Contains(p.steps, "listen") {
			l.list = append(l.list, p)
			l.ports[p.name] = freePort(t)
		}
	}
	return l
}

// command is a shell whose children listen at the same time.
func (l listeners) command() []string {
	var script strings.Builder
	for _, p := range l.list {
		if p.missing == "" {
			fmt.Fprintf(&script, "%s &\n", quote(p.command(fmt.Sprintf("listen %d %s", l.ports[p.name], p.name))))
		}
	}
	script.WriteString("wait\n")
	return []string{"sh", "-c", script.String()}
}

// all are the ports.
func (l listeners) all() []uint16 {
	var ports []uint16
	for _, p := range l.list {
		ports = append(ports, l.ports[p.name])
	}
	return ports
}

// quote writes arguments for a shell.
func quote(argv []string) string {
	var words []string
	for _, a := range argv {
		words = append(words, "'"+strings.ReplaceAll(a, "'", `'\''`)+"'")
	}
	return strings.Join(words, " ")
}

// requests are the lines about requests in a session's output.
func (se *session) requests() []request {
	var list []request
	for line := range strings.Lines(se.out.String()) {
		var r request
		if json.Unmarshal([]byte(line), &r) == nil && r.SHA256 != "" {
			list = append(list, r)
		}
	}
	return list
}

// printed waits until the local process has printed text.
func (se *session) printed(text string) {
	se.t.Helper()
	eventually(se.t, func() error {
		select {
		case <-se.done:
			if !strings.Contains(se.out.String(), text) {
				se.t.Fatalf("the session ended before its process printed %q", text)
			}
		default:
		}
		if !strings.Contains(se.out.String(), text) {
			return fmt.Errorf("waited in vain for the process to print %q", text)
		}
		return nil
	})
}

// seen tells whether there was an event that match accepts.
func (se *session) seen(match func(progress.Line) bool) bool {
	se.mu.Lock()
	defer se.mu.Unlock()
	return slices.ContainsFunc(se.events, match)
}

// summary waits for the session's summary.
func (se *session) summary() *progress.Summary {
	se.t.Helper()
	return se.event("the summary", func(l progress.Line) bool { return l.Event == "summary" }).Summary
}

// sameAddr compares two addresses with ports as programs and workload write them:
// 10.0.0.1:80, [10.0.0.1]:80 and [::ffff:10.0.0.1]:80 are the same.
func sameAddr(a, b string) bool {
	return plain(a) == plain(b) && plain(a).IsValid()
}

func plain(text string) netip.AddrPort {
	host, port, err := net.SplitHostPort(text)
	ip, err2 := netip.ParseAddr(host)
	n, err3 := strconv.ParseUint(port, 10, 16)
	if cmp.Or(err, err2, err3) != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(n))
}
