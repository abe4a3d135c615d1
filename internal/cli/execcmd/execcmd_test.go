//go:build linux

package execcmd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/mirrord-go/mirrord/internal/cli/clierr"
	"github.com/mirrord-go/mirrord/internal/cli/command"
	"github.com/mirrord-go/mirrord/internal/cli/iostreams"
	"github.com/mirrord-go/mirrord/internal/cli/progress"
	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/kube"
	"github.com/mirrord-go/mirrord/internal/session"
	"github.com/mirrord-go/mirrord/internal/session/agenttest"
	"github.com/mirrord-go/mirrord/internal/tunnel"
	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// agent is one whose far end is in this process.
type agent struct {
	t       *testing.T
	id      *tunnel.Identity
	client  tunnel.Fingerprint
	script  agenttest.Script
	running chan *agenttest.Agent
	closed  int
}

func (a *agent) Key() tunnel.Fingerprint     { return a.id.Fingerprint() }
func (a *agent) Describe() string            { return "the test's agent" }
func (a *agent) Close(context.Context) error { a.closed++; return nil }

func (a *agent) Dial(context.Context) (net.Conn, error) {
	near, far := net.Pipe()
	go func() { a.running <- agenttest.Serve(a.t, far, a.id, a.client, a.script) }()
	return near, nil
}

// result is how a command line ended.
type result struct {
	err      error
	stderr   string
	attached []Request
	agent    *agent
}

// code is the exit code, as the program would have it.
func (r result) code() int { return clierr.Report(io.Discard, r.err) }

type setup struct {
	environ   map[string]string
	script    agenttest.Script
	attachErr error
	// hostNetwork: the target's pod has its node's network.
	hostNetwork bool
	// running gets the agent's end once the tunnel stands; may be nil.
	running func(*agenttest.Agent)
}

// exec runs a command line of exec.
func (s setup) exec(t *testing.T, args ...string) result {
	t.Helper()
	streams, _, _, stderr := iostreams.Test()
	f := command.New(streams)
	f.LookupEnv = func(name string) (string, bool) { v, ok := s.environ[name]; return v, ok }
	f.Connect = func(kube.Options) (*kube.Cluster, error) {
		t.Error("a cluster was asked for")
		return nil, errors.New("none")
	}
	_, id := agenttest.Identities(t)
	r := result{agent: &agent{t: t, id: id, script: s.script, running: make(chan *agenttest.Agent, 1)}}
	if s.script.Control == nil {
		r.agent.script.Control = func(wire.Control) *wire.Result { return &wire.Result{Environ: []string{"FROM_POD=1"}} }
	}
	cmd := NewCmd(f, func(ctx context.Context, opts *Options) error {
		opts.Keep = func(string) (Keeper, error) { return nobody{}, nil }
		opts.Attach = func(_ context.Context, req Request) (*Attachment, error) {
			r.attached = append(r.attached, req)
			r.agent.client = req.ClientKey
			if s.attachErr != nil {
				return nil, s.attachErr
			}
			return &Attachment{Namespace: "default", Attachments: session.Single(session.Attachment{
				Agent: r.agent, Pod: "shop-1", Container: "app", Node: "n1", HostNetwork: s.hostNetwork,
			})}, nil
		}
		return run(ctx, opts)
	})
	cmd.SetArgs(args)
	cmd.SetOut(io.Discard)
	cmd.SetErr(io.Discard)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	if s.running != nil {
		go func() { s.running(<-r.agent.running) }()
	}
	r.err = cmd.ExecuteContext(t.Context())
	r.stderr = stderr.String()
	return r
}

func TestExitCodePassesThrough(t *testing.T) {
	r := setup{}.exec(t, "-t", "pod/shop-1", "--", "sh", "-c", "exit 7")
	if r.code() != 7 {
		t.Fatalf("exit code %d, %v\n%s", r.code(), r.err, r.stderr)
	}
	if r.agent.closed != 1 {
		t.Errorf("the agent was removed %d times", r.agent.closed)
	}
	for _, want := range []string{"pod shop-1, container app, node n1", "incoming", "mirror every port", "(default)", "✓ "} {
		if !strings.Contains(r.stderr, want) {
			t.Errorf("%q is not in\n%s", want, r.stderr)
		}
	}
}

func TestStealFromANode(t *testing.T) {
	for _, s := range []setup{{hostNetwork: true}, {}} {
		r := s.exec(t, "--steal", "-t", "pod/shop-1", "--", "true")
		if warned := strings.Contains(r.stderr, "stolen from the whole node"); r.code() != 0 || warned != s.hostNetwork {
			t.Errorf("host network %v: exit code %d\n%s", s.hostNetwork, r.code(), r.stderr)
		}
	}
}

func TestFlagsBehindTheCommandAreTheCommands(t *testing.T) {
	r := setup{}.exec(t, "-q", "--fs-mode", "local", "-t", "pod/shop-1", "sh", "-c", `test "$0 $1 $2" = "-t pod/other --steal"`, "-t", "pod/other", "--steal")
	if r.code() != 0 || r.stderr != "" {
		t.Fatalf("exit code %d, %v, stderr %q", r.code(), r.err, r.stderr)
	}
	cfg := r.attached[0].Config
	if cfg.Target.Path.Name != "shop-1" || cfg.Feature.Network.Incoming.Mode != config.IncomingMirror {
		t.Errorf("the configuration is %+v", cfg)
	}
}

func TestNothingIsAttachedInVain(t *testing.T) {
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	bad := filepath.Join(dir, "bad.json")
	for path, text := range map[string]string{plain: "A", bad: `{"targt": "pod/x"}`} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, tt := range map[string]struct {
		setup setup
		args  []string
		code  int
		want  string
	}{
		"no command":     {setup{}, []string{"-t", "pod/x"}, clierr.Usage, "no command"},
		"not found":      {setup{}, []string{"-t", "pod/x", "no-such-program"}, 127, "no-such-program: command not found"},
		"not executable": {setup{}, []string{"-t", "pod/x", plain}, 126, "can't be run"},
		"bad file":       {setup{}, []string{"-f=" + bad, "true"}, clierr.Failure, "targt"},
		"env file":       {setup{}, []string{"-t", "pod/x", "--env-file", plain, "true"}, clierr.Failure, "line 1"},
		"nested":         {setup{environ: map[string]string{session.IDVariable: "s0"}}, []string{"true"}, clierr.Failure, "session s0"},
		"bad progress":   {setup{}, []string{"--progress", "loud", "true"}, clierr.Failure, "must be auto"},
	} {
		t.Run(name, func(t *testing.T) {
			r := tt.setup.exec(t, tt.args...)
			said := new(bytes.Buffer)
			code := clierr.Report(said, r.err)
			if text := r.stderr + said.String(); code != tt.code || !strings.Contains(text, tt.want) {
				t.Errorf("exit code %d with %q, want %d with %q", code, text, tt.code, tt.want)
			}
			if len(r.attached) > 0 {
				t.Error("an agent was started")
			}
		})
	}
}

func TestAttachFails(t *testing.T) {
	gone := errors.New("no such pod")
	if r := (setup{attachErr: gone}).exec(t, "-q", "-t", "pod/x", "true"); !errors.Is(r.err, gone) || r.code() != clierr.Failure {
		t.Errorf("exit code %d, %v", r.code(), r.err)
	}
}

func TestLostTunnelIsSaidOnce(t *testing.T) {
	s := setup{}
	s.script.Control = func(m wire.Control) *wire.Result { return &wire.Result{} }
	s.running = func(a *agenttest.Agent) { a.Say(wire.Control{Goodbye: &wire.Goodbye{Reason: "the pod is gone"}}) }
	r := s.exec(t, "-q", "-t", "pod/x", "-x", "NOTHING", "sleep", "60")
	said := new(bytes.Buffer)
	if code := clierr.Report(said, r.err); code != clierr.Failure {
		t.Errorf("exit code %d, %v", code, r.err)
	}
	if text := r.stderr + said.String(); strings.Count(text, "the pod is gone") != 1 {
		t.Errorf("the user reads %q", text)
	}
}

func TestProgressJSON(t *testing.T) {
	r := setup{}.exec(t, "--progress", "json", "-t", "pod/shop-1", "--steal", "--", "sh", "-c", "exit 3")
	var events []string
	for line := range strings.Lines(r.stderr) {
		var l progress.Line
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
		switch {
		case l.Event == "phase" && l.State == "done":
			events = append(events, l.Name)
			if l.Seconds == nil {
				t.Errorf("no time in %s", line)
			}
		case l.Event == "summary":
			events = append(events, "summary of "+l.Summary.Target)
			if i := slices.IndexFunc(l.Summary.Settings, func(s progress.Setting) bool { return s.Name == "incoming" }); l.Summary.Settings[i].Origin.String() != "--steal" {
				t.Errorf("settings %+v", l.Summary.Settings)
			}
		case l.Event == "started":
			events = append(events, "started")
			if l.PID == 0 || l.Seconds == nil || *l.Seconds <= 0 {
				t.Errorf("started: %s", line)
			}
		case l.Event == "exit":
			events = append(events, "exit")
			if l.Code == nil || *l.Code != 3 {
				t.Errorf("exit: %s", line)
			}
		}
	}
	want := []string{"config", "tunnel", "environment", "summary of pod/shop-1", "start", "started", "exit"}
	if !slices.Equal(events, want) {
		t.Errorf("events %v, want %v", events, want)
	}
}
