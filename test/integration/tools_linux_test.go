package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mirrord-go/mirrord/internal/agent/testnet"
)

// toolsEnv has the tools of a test for its part in a network namespace, where nothing can be fetched.
const toolsEnv = "MIRRORD_TEST_TOOLS"

// tools are the programs that a test runs in its sessions.
type tools struct {
	// Dir is a folder for everybody, with the shop and what its makers need.
	Dir string
	// Found are paths; Missing are reasons.
	Found, Missing map[string]string
}

// toolTest is a test of one tool, in a world that it leaves as it was.
type toolTest struct {
	name string
	f    func(*testing.T, *world, *tools)
}

// each runs tests one after the other in a namespace of their own; after each the pod has to serve again.
func (s *tools) each(t *testing.T, tests []toolTest) {
	t.Helper()
	if _, inside := testnet.Isolated(t); !inside {
		return
	}
	w := newWorld(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.f(t, w, s)
			w.podServes(t)
		})
	}
}

// newTools finds or makes tools by their names.
func newTools(t *testing.T, names ...string) *tools {
	t.Helper()
	s := &tools{Found: map[string]string{}, Missing: map[string]string{}}
	if known := os.Getenv(toolsEnv); known != "" {
		if err := json.Unmarshal([]byte(known), s); err != nil {
			t.Fatal(err)
		}
		return s
	}
	if os.Getuid() != 0 {
		t.Skip("making network namespaces needs root")
	}
	var err error
	if s.Dir, err = os.MkdirTemp("", "mirrord-tools-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(s.Dir) })
	if err := os.Chmod(s.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		path, err := s.find(t.Context(), name)
		if s.Found[name] = path; err != nil {
			s.Missing[name] = err.Error()
		}
	}
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(toolsEnv, string(b))
	return s
}

// need returns the path of a tool. One that is missing skips the test, or fails it with MIRRORD_E2E=require.
func (s *tools) need(t *testing.T, name string) string {
	t.Helper()
	reason, missing := s.Missing[name]
	switch {
	case !missing:
		return s.Found[name]
	case os.Getenv("MIRRORD_E2E") == "require":
		t.Fatalf("MIRRORD_E2E=require, but there is no %s: %s", name, reason)
	default:
		t.Skipf("no %s here: %s", name, reason)
	}
	return ""
}

func (s *tools) find(ctx context.Context, name string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	switch name {
	case "dlv", "air":
		// The names that they bear for everybody, by which a session knows them.
		out, err := output1(exec.CommandContext(ctx, "go", "tool", "-C", "../..", "-modfile=hack/debuggers/go.mod", "-n", name))
		return strings.TrimSpace(out), err
	case "shop":
		// As dlv debug builds it, which finds it all in the cache then.
		path := filepath.Join(s.Dir, name)
		cmd := exec.CommandContext(ctx, "go", "build", "-gcflags=all=-N -l", "-o", path, "./testdata/shop")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		_, err := output1(cmd)
		return path, err
	case "node --watch":
		// Since Node 18.11, which a distribution may not have.
		help, err := output1(exec.CommandContext(ctx, "node", "--help"))
		if err == nil && !strings.Contains(help, "--watch-preserve-output") {
			err = errors.New("this node does not have the option")
		}
		return "node", err
	case "mirrord":
		path := filepath.Join(s.Dir, name)
		cmd := exec.CommandContext(ctx, "go", "build", "-o", path, "github.com/mirrord-go/mirrord/cmd/mirrord")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		_, err := output1(cmd)
		return path, err
	case "shop in C":
		path := filepath.Join(s.Dir, "shop-c")
		_, err := output1(exec.CommandContext(ctx, "gcc", "-Wall", "-Wextra", "-Werror", "-g", "-o", path, "testdata/shop.c"))
		return path, err
	case "python with debugpy":
		// Debian's package belongs to Debian's Python, which need not be the first in PATH.
		var errs []error
		for _, python := range []string{"python3", "/usr/bin/python3"} {
			_, err := output1(exec.CommandContext(ctx, python, "-c", "import debugpy"))
			if err == nil {
				return python, nil
			}
			errs = append(errs, err)
		}
		return "", errors.Join(errs...)
	case "nodemon":
		for _, file := range []string{"package.json", "package-lock.json"} {
			b, err := os.ReadFile(filepath.Join("testdata/nodemon", file))
			if err == nil {
				err = os.WriteFile(filepath.Join(s.Dir, file), b, 0o600)
			}
			if err != nil {
				return "", err
			}
		}
		_, err := output1(exec.CommandContext(ctx, "npm", "ci", "--prefix", s.Dir, "--ignore-scripts", "--no-audit", "--no-fund"))
		return filepath.Join(s.Dir, "node_modules/nodemon/bin/nodemon.js"), err
	}
	return exec.LookPath(name)
}

// output1 is a program's standard output; the error has what it said on the other.
func output1(cmd *exec.Cmd) (string, error) {
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, errs.String())
	}
	return string(out), err
}

// dialogue is a program of the laptop, outside of the session, that a person talks with.
type dialogue struct {
	t  *testing.T
	in io.WriteCloser

	mu   sync.Mutex
	text string
	seen int // what of it was expected
	more chan struct{}
}

func talk(t *testing.T, argv ...string) *dialogue {
	t.Helper()
	d := &dialogue{t: t, more: make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var err error
	if d.in, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = d, d
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); _ = cmd.Wait() })
	return d
}

func (d *dialogue) Write(b []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.text += string(b)
	close(d.more)
	d.more = make(chan struct{})
	return len(b), nil
}

// say types a line.
func (d *dialogue) say(line string) {
	d.t.Helper()
	if _, err := fmt.Fprintln(d.in, line); err != nil {
		d.t.Fatalf("saying %q: %v", line, err)
	}
}

// expect waits for a text, behind what was expected before.
func (d *dialogue) expect(want string) {
	d.t.Helper()
	deadline := time.After(patience)
	for {
		d.mu.Lock()
		more, rest := d.more, d.text[d.seen:]
		i := strings.Index(rest, want)
		if i >= 0 {
			d.seen += i + len(want)
		}
		d.mu.Unlock()
		if i >= 0 {
			return
		}
		select {
		case <-more:
		case <-deadline:
			d.t.Fatalf("no %q in\n%s", want, rest)
		}
	}
}
