// Package e2e tries sessions on a real cluster, as their users would: the real mirrord
// command, a real pod, real programs. Each test shows an effect and fails when it is absent.
//
// The tests need the cluster of test/cluster ("make cluster-up"); see test/clustertest.
package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mirrord-go/mirrord/internal/cli/progress"
	"github.com/mirrord-go/mirrord/test/clustertest"
)

// patience is how long the tests wait for what takes a second or two on an idle machine. It ends a test that has failed
// already: no machine is so slow that a good one takes as long. It is less than the five minutes after which sessions and
// agents give up by themselves.
const patience = 4 * time.Minute

// bulkPatience is the same for what moves gigabytes.
const bulkPatience = 30 * time.Minute

// agentImage is the agent's image in the cluster, loaded for each run of the tests.
const agentImage = "test.mirrord.local/mirrord-agent:e2e"

// built are the programs under test, made once for all tests.
var built struct {
	once     sync.Once
	dir      string
	mirrord  string
	agent    string
	workload string
	err      error
}

func TestMain(m *testing.M) {
	// Whoever runs the tests in the background may have these ignored, and so would have what the tests start.
	for _, s := range []os.Signal{syscall.SIGINT, syscall.SIGQUIT} {
		if signal.Ignored(s) {
			signal.Notify(make(chan os.Signal, 1), s)
		}
	}
	code := m.Run()
	if built.dir != "" {
		_ = os.RemoveAll(built.dir)
	}
	os.Exit(code)
}

// build makes the programs, gives the images to the cluster, and installs the types.
func build(t *testing.T, env *clustertest.Env) {
	t.Helper()
	built.once.Do(func() {
		built.err = func() error {
			root, err := filepath.Abs("../..")
			if err != nil {
				return err
			}
			if built.dir, err = os.MkdirTemp("", "mirrord-e2e-"); err != nil {
				return err
			}
			cmd := exec.Command("go", "build", "-trimpath", "-o", built.dir, "./cmd/...", "./test/workload")
			cmd.Dir = root
			cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("building: %w\n%s", err, out)
			}
			built.mirrord = filepath.Join(built.dir, "mirrord")
			built.agent = filepath.Join(built.dir, "mirrord-agent")
			built.workload = filepath.Join(built.dir, "workload")
			return nil
		}()
		if built.err != nil {
			return
		}
		env.LoadImage(t, agentImage, []string{"/mirrord-agent"}, map[string]string{"/mirrord-agent": built.agent})
		env.LoadImage(t, clustertest.WorkloadImage, []string{"/bin/workload"}, map[string]string{"/bin/workload": built.workload})
		crds, err := exec.Command(built.mirrord, "operator", "manifests", "--crds-only").Output()
		if err != nil {
			built.err = err
			return
		}
		out, err := env.Kubectl(t, env.Kubeconfig, crds, "apply", "-f", "-")
		if err != nil {
			built.err = fmt.Errorf("installing the types: %w\n%s", err, out)
			return
		}
		// They are served a moment later.
		for line := range strings.Lines(out) {
			name, isType := strings.CutPrefix(strings.Fields(line)[0], "customresourcedefinition.apiextensions.k8s.io/")
			if !isType {
				continue
			}
			eventually(t, func() error {
				_, err := env.Kubectl(t, env.Kubeconfig, nil, "get", name, "-A")
				return err
			})
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
}

// object is a piece of a config file.
type object = map[string]any

// run is how a test starts mirrord exec.
type run struct {
	// config is the file's content; target, namespace, the agent's image and that there is
	// no operator are filled in where it leaves them out.
	config object
	// noTarget leaves the target out.
	noTarget bool
	// flags come before the command, env is added to the environment.
	flags []string
	env   []string
	// kubeconfig replaces the administrator's.
	kubeconfig string
	// command is what to run.
	command []string
	// stdin keeps the standard input open until stop.
	stdin bool
}

// session is a mirrord exec that runs.
type session struct {
	t     *testing.T
	cmd   *exec.Cmd
	stdin io.WriteCloser
	out   output // the local process's standard output

	mu     sync.Mutex
	events []progress.Line
	text   bytes.Buffer // standard error that is no progress
	more   chan struct{}

	done chan struct{}
	code int
}

// configFile writes a run's configuration and returns its path.
func (s *stage) configFile(t *testing.T, r run) string {
	t.Helper()
	c := object{}
	for k, v := range r.config {
		c[k] = v
	}
	if _, ok := c["target"]; !ok && !r.noTarget {
		c["target"] = object{"path": "deployment/shop", "namespace": s.ns}
	}
	if _, ok := c["operator"]; !ok {
		c["operator"] = false // another test's may be there
	}
	// On a busy machine, an agent may need longer than users would wait.
	agent := object{"image": agentImage, "image_pull_policy": "Never", "startup_timeout": int(patience.Seconds())}
	if a, ok := c["agent"].(object); ok {
		for k, v := range a {
			agent[k] = v
		}
	}
	c["agent"] = agent
	b, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "mirrord.json")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// start runs mirrord exec. The test's end ends it.
func (s *stage) start(t *testing.T, r run) *session {
	t.Helper()
	args := append([]string{"exec", "--progress", "json", "-f", s.configFile(t, r)}, r.flags...)
	args = append(append(args, "--"), r.command...)
	kubeconfig := r.kubeconfig
	if kubeconfig == "" {
		kubeconfig = s.Kubeconfig
	}
	se := &session{t: t, more: make(chan struct{}), done: make(chan struct{})}
	se.cmd = exec.Command(built.mirrord, args...)
	se.cmd.Env = append(append(os.Environ(), "KUBECONFIG="+kubeconfig), r.env...)
	// A process group of its own: what a test sends to the session reaches nothing else.
	se.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	se.cmd.Stdout = &se.out
	if r.stdin {
		var err error
		if se.stdin, err = se.cmd.StdinPipe(); err != nil {
			t.Fatal(err)
		}
	}
	stderr, err := se.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := se.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		se.read(stderr)
		err := se.cmd.Wait()
		se.code = exitCode(err)
		close(se.done)
	}()
	t.Cleanup(func() {
		select {
		case <-se.done:
		default:
			_ = se.cmd.Process.Signal(syscall.SIGTERM)
			select {
			case <-se.done:
			case <-time.After(patience):
				_ = se.cmd.Process.Kill()
				<-se.done
			}
		}
		if t.Failed() {
			t.Logf("mirrord %s\nexit code %d\nstandard output:\n%s\nstandard error:\n%s", strings.Join(args, " "), se.code, se.out.String(), se.stderr())
		}
	})
	return se
}

func exitCode(err error) int {
	var ee *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &ee) && ee.ExitCode() >= 0:
		return ee.ExitCode()
	}
	return -1
}

// read takes the session's standard error apart.
func (se *session) read(r io.Reader) {
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		var l progress.Line
		se.mu.Lock()
		if json.Unmarshal(sc.Bytes(), &l) == nil && l.Event != "" {
			se.events = append(se.events, l)
			close(se.more)
			se.more = make(chan struct{})
		} else {
			fmt.Fprintln(&se.text, sc.Text())
		}
		se.mu.Unlock()
	}
}

// stderr is everything on standard error, for messages.
func (se *session) stderr() string {
	se.mu.Lock()
	defer se.mu.Unlock()
	var b strings.Builder
	for _, e := range se.events {
		line, _ := json.Marshal(e)
		fmt.Fprintf(&b, "%s\n", line)
	}
	return b.String() + se.text.String()
}

// event waits for an event that match accepts, seen before or to come, and returns it.
func (se *session) event(what string, match func(progress.Line) bool) progress.Line {
	se.t.Helper()
	deadline := time.After(patience)
	for {
		se.mu.Lock()
		more := se.more
		for _, e := range se.events {
			if match(e) {
				se.mu.Unlock()
				return e
			}
		}
		se.mu.Unlock()
		select {
		case <-more:
		case <-se.done:
			se.t.Fatalf("the session ended before %s", what)
		case <-deadline:
			se.t.Fatalf("waited in vain for %s", what)
		}
	}
}

// started waits until the local process runs.
func (se *session) started() progress.Line {
	se.t.Helper()
	return se.event("its process started", func(l progress.Line) bool { return l.Event == "started" })
}

// subscribed waits until a port of the target is subscribed.
func (se *session) subscribed(port uint16) {
	se.t.Helper()
	se.event(fmt.Sprintf("port %d was subscribed", port), func(l progress.Line) bool {
		return l.Event == "port-subscribed" && l.Port == port
	})
}

// wait waits until the session has ended and returns its exit code.
func (se *session) wait() int {
	se.t.Helper()
	return se.waitFor(patience)
}

// waitFor is wait with another limit.
func (se *session) waitFor(limit time.Duration) int {
	se.t.Helper()
	select {
	case <-se.done:
		return se.code
	case <-time.After(limit):
		se.t.Fatal("the session did not end")
		return -1
	}
}

// stop interrupts the session as its user would and returns its exit code.
func (se *session) stop() int {
	se.t.Helper()
	if se.stdin != nil {
		_ = se.stdin.Close()
	}
	_ = se.cmd.Process.Signal(syscall.SIGTERM)
	return se.wait()
}

// output collects what a process writes.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// eventually calls check until it returns nil, and fails the test with its last error when
// patience is over.
func eventually(t *testing.T, check func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal(err)
		}
	}
}
