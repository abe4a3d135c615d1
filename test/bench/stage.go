package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/mirrord-go/mirrord/internal/cli/progress"
	"github.com/mirrord-go/mirrord/test/bench/load"
	"github.com/mirrord-go/mirrord/test/clustertest"
)

// The ports of the pods, and those that sessions take of the target.
const (
	rawPort = 7000
	webPort = 7001
	// stolenPort is the first build's for TCP. The next is its HTTP port, and then come the next build's.
	stolenPort = 7100
)

// patience is how long what usually takes a second may take.
const patience = 2 * time.Minute

const loaderImage = "cluster.local/bench-loader:bench"

// pods are the target of the sessions, and what they and everybody else connect to.
const pods = `
apiVersion: v1
kind: Pod
metadata: {name: target, labels: {app: target}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: target, image: ` + loaderImage + `, imagePullPolicy: Never, args: [serve], env: [{name: COLOR, value: green}]}
---
apiVersion: v1
kind: Pod
metadata: {name: server, labels: {app: server}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: server, image: ` + loaderImage + `, imagePullPolicy: Never, args: [serve]}
`

// build is one build of the product.
type build struct {
	name    string // "" for this checkout's
	mirrord string
	image   string // of its agent
	// operator says that its sessions are the operator's.
	operator bool
}

// stage is where everything is measured.
type stage struct {
	t      *host
	env    *clustertest.Env
	ns     string
	loader string
	// workload is the program of the end-to-end tests; empty without a steady load.
	workload string
	builds   []build
	target   string // address of the target
	server   string // address of the server
}

func newStage(t *host, o options) *stage {
	s := &stage{t: t, env: clustertest.New(t)}
	t.Logf("building")
	dir := t.TempDir()
	s.loader = filepath.Join(dir, "loader")
	programs := []string{"./cmd/mirrord", "./cmd/mirrord-agent", "./test/bench/loader"}
	if o.operator {
		programs = append(programs, "./cmd/mirrord-operator")
	}
	if o.load > 0 {
		programs = append(programs, "./test/workload")
		s.workload = filepath.Join(dir, "workload")
	}
	cmd := exec.CommandContext(t.ctx, "go", append([]string{"build", "-trimpath", "-o", dir}, programs...)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building: %v\n%s", err, out)
	}
	s.addBuild("", dir)
	if o.against != "" {
		s.addBuild("other ", o.against)
	}
	s.env.LoadImage(t, loaderImage, []string{"/loader"}, map[string]string{"/loader": s.loader})
	s.ns = s.env.Namespace(t)
	s.env.Apply(t, s.ns, pods)
	s.env.WaitReady(t, s.ns, "pod/target", "pod/server")
	if o.operator {
		s.installOperator(dir)
	}
	s.target = s.env.Pod(t, s.ns, "target").Status.PodIP
	s.server = s.env.Pod(t, s.ns, "server").Status.PodIP
	return s
}

func (s *stage) addBuild(name, dir string) {
	b := build{
		name:    name,
		mirrord: filepath.Join(dir, "mirrord"),
		image:   "test.mirrord.local/mirrord-agent:bench" + strings.TrimSpace(name),
	}
	s.env.LoadImage(s.t, b.image, []string{"/mirrord-agent"}, map[string]string{"/mirrord-agent": filepath.Join(dir, "mirrord-agent")})
	s.builds = append(s.builds, b)
}

// process is a program that runs until the end of the measurements, or until stop.
type process struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout *bufio.Reader
	ended  chan struct{}
	once   sync.Once
}

// start runs a program. Its standard error goes to errs.
func (s *stage) start(errs io.Writer, env []string, args ...string) *process {
	p := &process{cmd: exec.Command(args[0], args[1:]...), ended: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stderr = errs
	// What ends the benchmark is told to the programs by it, in its order.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, err := p.cmd.StdinPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	// A pipe of our own: Wait would close one of exec's while it is being read.
	r, w, err := os.Pipe()
	if err != nil {
		s.t.Fatal(err)
	}
	p.stdin, p.stdout, p.cmd.Stdout = stdin, bufio.NewReader(r), w
	err = p.cmd.Start()
	_ = w.Close()
	if err != nil {
		_ = r.Close()
		s.t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		_ = p.cmd.Wait() // how it ended is known by what it wrote
	}()
	s.t.Cleanup(func() { p.stop(); _ = r.Close() })
	return p
}

// stop ends the program and waits for that.
func (p *process) stop() {
	p.once.Do(func() {
		_ = p.stdin.Close()
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		t := time.NewTimer(20 * time.Second)
		defer t.Stop()
		select {
		case <-p.ended:
		case <-t.C:
			_ = p.cmd.Process.Kill()
			<-p.ended
		}
	})
}

// loadClient is a running load client.
type loadClient struct {
	t *host
	p *process
}

// do carries out one job. Its failure ends the benchmark.
func (c *loadClient) do(what string, j load.Job) load.Result {
	r := c.try(what, j)
	if r.Error != "" {
		c.t.Fatalf("%s: %s %d clients: %s", what, j.Kind, j.Clients, r.Error)
	}
	return r
}

// try is do for a job that may fail, with the result's Error.
func (c *loadClient) try(what string, j load.Job) load.Result {
	b, err := json.Marshal(j)
	if err != nil {
		c.t.Fatal(err)
	}
	// A client whose connections all hang ends by its own time-out.
	if _, err := c.p.stdin.Write(append(b, '\n')); err != nil {
		c.t.Fatalf("%s: %v", what, err)
	}
	line, err := c.p.stdout.ReadBytes('\n')
	if err != nil {
		c.t.Fatalf("%s: the client has ended: %v", what, err)
	}
	var r load.Result
	if err := json.Unmarshal(line, &r); err != nil {
		c.t.Fatalf("%s: the client says %q: %v", what, line, err)
	}
	return r
}

// localClient is a load client outside of any session.
func (s *stage) localClient() *loadClient {
	return &loadClient{s.t, s.start(os.Stderr, nil, s.loader, "client")}
}

// session is a running mirrord exec.
type session struct {
	*process
	t     *host
	lines *lines
}

// session starts a session on the target.
func (s *stage) session(b build, incoming string, command ...string) *session {
	return s.exec(b, s.settings(incoming), command...)
}

// exec starts a session.
func (s *stage) exec(b build, settings map[string]any, command ...string) *session {
	se := &session{t: s.t, lines: &lines{to: make(chan progress.Line, 1024)}}
	se.process = s.start(se.lines, []string{"KUBECONFIG=" + s.env.Kubeconfig}, s.execArgs(b, settings, command...)...)
	return se
}

// settings are those of a session on the target.
func (s *stage) settings(incoming string) map[string]any {
	return map[string]any{
		"target":  map[string]any{"path": "pod/target", "namespace": s.ns},
		"feature": map[string]any{"network": map[string]any{"incoming": incoming}},
	}
}

// execArgs completes the settings for a build, and writes them to a file.
func (s *stage) execArgs(b build, settings map[string]any, command ...string) []string {
	settings["operator"] = b.operator
	if !b.operator {
		settings["agent"] = map[string]any{"image": b.image, "image_pull_policy": "Never"}
	}
	config, err := json.Marshal(settings)
	if err != nil {
		s.t.Fatal(err)
	}
	file := filepath.Join(s.t.TempDir(), "mirrord.json")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		s.t.Fatal(err)
	}
	return append([]string{b.mirrord, "exec", "--progress", "json", "-f", file, "--"}, command...)
}

// started is the event of a session whose process runs.
func started(l progress.Line) bool { return l.Event == "started" }

// await waits for an event.
func (se *session) await(what string, match func(progress.Line) bool) {
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for {
		select {
		case l := <-se.lines.to:
			if match(l) {
				return
			}
		case <-se.ended:
			se.t.Fatalf("the session ended before %s:\n%s", what, se.lines.rest())
		case <-timeout.C:
			se.t.Fatalf("waited in vain for %s:\n%s", what, se.lines.rest())
		case <-se.t.ctx.Done():
			se.t.Fatalf("interrupted")
		}
	}
}

// stillRuns ends the bench when the session has ended: what was measured was none.
func (se *session) stillRuns() {
	select {
	case <-se.ended:
		se.t.Fatalf("a session ended while it was measured:\n%s", se.lines.rest())
	default:
	}
}

// lines takes a session's standard error apart as it is written. What nobody takes is dropped.
type lines struct {
	to      chan progress.Line
	mu      sync.Mutex
	partial []byte
	text    []string
}

// Write implements io.Writer.
func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.partial = append(l.partial, b...)
	for {
		line, rest, ok := strings.Cut(string(l.partial), "\n")
		if !ok {
			return len(b), nil
		}
		l.partial = []byte(rest)
		l.text = append(l.text, line)
		var p progress.Line
		if json.Unmarshal([]byte(line), &p) == nil {
			select {
			case l.to <- p:
			default:
			}
		}
	}
}

// phases are the parts of the start that the session told of.
func (l *lines) phases() (ps []phase) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.text {
		var p progress.Line
		if json.Unmarshal([]byte(line), &p) == nil && p.Event == "phase" && p.State == "done" && p.Seconds != nil {
			ps = append(ps, phase{p.Name, *p.Seconds})
		}
	}
	return ps
}

func (l *lines) rest() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.text, "\n")
}

// outgoing starts a session whose local process is a load client.
func (s *stage) outgoing(b build) (*loadClient, *session) {
	se := s.session(b, "off", s.loader, "client")
	se.await("its process started", started)
	return &loadClient{s.t, se.process}, se
}

// stolen starts a session whose local process is a load server for ports of the target.
func (s *stage) stolen(b build, port int) *session {
	se := s.session(b, "steal", s.loader, "serve", "-tcp", fmt.Sprintf(":%d", port), "-http", fmt.Sprintf(":%d", port+1))
	for range 2 {
		se.await("its ports were taken", func(l progress.Line) bool { return l.Event == "port-subscribed" })
	}
	return se
}

// forwarded is a line of kubectl about a port.
var forwarded = regexp.MustCompile(`^Forwarding from (127\.0\.0\.1:\d+) -> (\d+)`)

// portForward starts kubectl port-forward to the server and returns it and its two local addresses.
func (s *stage) portForward() (p *process, raw, web string) {
	p = s.start(os.Stderr, nil, s.kubectl(), "--kubeconfig", s.env.Kubeconfig, "port-forward", "--address", "127.0.0.1",
		"-n", s.ns, "pod/server", fmt.Sprintf(":%d", rawPort), fmt.Sprintf(":%d", webPort))
	for raw == "" || web == "" {
		line, err := p.stdout.ReadString('\n')
		if err != nil {
			s.t.Fatalf("kubectl port-forward: %v", err)
		}
		m := forwarded.FindStringSubmatch(line)
		switch {
		case m == nil:
		case m[2] == fmt.Sprint(rawPort):
			raw = m[1]
		case m[2] == fmt.Sprint(webPort):
			web = m[1]
		}
	}
	go func() { _, _ = io.Copy(io.Discard, p.stdout) }() // ends with kubectl
	return p, raw, web
}

// kubectl is the cluster's own, or the user's.
func (s *stage) kubectl() string {
	if k := s.env.Cluster.Kubectl; k != "" {
		return k
	}
	k, err := exec.LookPath("kubectl")
	if err != nil {
		s.t.Fatal(errors.Join(errors.New("there is no kubectl to compare with"), err))
	}
	return k
}

func hostPort(ip string, port int) string { return net.JoinHostPort(ip, fmt.Sprint(port)) }
