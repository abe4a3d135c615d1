package demo

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/demo/world"
	"github.com/mirrord-go/mirrord/internal/profile"
	"github.com/mirrord-go/mirrord/internal/profile/dirstore"
	"github.com/mirrord-go/mirrord/internal/resolve"
	"github.com/mirrord-go/mirrord/internal/session"
	"github.com/mirrord-go/mirrord/internal/session/local"
	"github.com/mirrord-go/mirrord/internal/tunnel"
)

// Exit codes of the sandbox's first process, which [Run] turns into errors again.
const (
	exitOK         = 0
	exitError      = 1
	exitFailed     = 3
	exitNotAllowed = 4
)

// patience is how long the demo waits for something that takes milliseconds.
const patience = 20 * time.Second

// quietTime is how long the demo waits for something that must not happen.
const quietTime = 200 * time.Millisecond

// Inside is the sandbox's first process: it builds the world, plays the scenes, and tells on out
// what was seen. It returns the process's exit code, or an error that the process is to tell, and then
// exit with 1.
func Inside(ctx context.Context, log *slog.Logger, out io.Writer, agent, profilesDir, dir string) (int, error) {
	// A reader of the output who leaves would end this process, the first of its namespace, in an odd way.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	err := inside(ctx, log, &output{w: out}, agent, profilesDir, dir)
	switch {
	case err == nil:
		return exitOK, nil
	case errors.Is(err, ErrFailed):
		return exitFailed, nil
	case errors.Is(err, world.ErrNotAllowed):
		log.Debug("making the world", "error", err)
		return exitNotAllowed, nil
	}
	return exitError, err
}

// output is written to until that fails.
type output struct {
	w   io.Writer
	err error
}

func (o *output) printf(format string, args ...any) {
	if o.err == nil {
		_, o.err = fmt.Fprintf(o.w, format, args...)
	}
}

func (o *output) problem() error {
	if o.err == nil {
		return nil
	}
	return fmt.Errorf("telling what was seen: %w", o.err)
}

func inside(ctx context.Context, log *slog.Logger, out *output, agent, profilesDir, dir string) error {
	begin := time.Now()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	w, err := world.Build(ctx, dir, []string{self, PodCommand})
	if err != nil {
		return err
	}
	defer w.Close()
	s := &stage{log: log, world: w, self: self, agent: agent, profiles: dirstore.New(profilesDir), dir: dir}
	out.printf("A network namespace stands for the pod (%s), another for its client (%s), another for a database\n"+
		"(%s). This side, the laptop, is connected to none of them.\n", world.PodAddr, world.ClientAddr, world.DatabaseAddr)
	failed, shown := 0, 0
	for _, sc := range scenes() {
		if err := out.problem(); err != nil {
			return err
		}
		out.printf("\nprofile %s\n", sc.profile)
		o, err := s.play(ctx, sc)
		if err != nil {
			return fmt.Errorf("profile %s: %w", sc.profile, err)
		}
		for _, change := range sc.shows {
			text, ok := o.check(change)
			mark := "ok  "
			if !ok {
				mark = "FAIL"
				failed++
			}
			shown++
			out.printf("  %s %-15s  %s\n", mark, change, text)
		}
	}
	out.printf("\n%d of %d adjustments had their effect, in %.1f s\n", shown-failed, shown, time.Since(begin).Seconds())
	if failed > 0 {
		return ErrFailed
	}
	return out.problem()
}

// stage is where scenes are played.
type stage struct {
	log      *slog.Logger
	world    *world.World
	self     string
	agent    string
	profiles profile.Store
	dir      string
	count    int
}

// play runs one session and says what was seen.
func (s *stage) play(ctx context.Context, sc scene) (outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, 6*patience)
	defer cancel()
	s.count++
	cfg, err := s.configure(ctx, sc)
	if err != nil {
		return outcome{}, err
	}
	p, err := s.begin(ctx, cfg)
	if err != nil {
		return outcome{}, err
	}
	o, err := s.watch(ctx, p, cfg.Feature.Network.Incoming.Mode)
	if endErr := p.end(ctx); err == nil {
		err = endErr
	}
	if err != nil {
		return outcome{}, err
	}
	o.received = p.receivedSoFar()
	o.after, err = s.world.Ask(ctx)
	if err != nil {
		return outcome{}, fmt.Errorf("asking the pod after the session: %w", err)
	}
	return o, nil
}

// configure goes the way of every configuration, from a file.
func (s *stage) configure(ctx context.Context, sc scene) (*config.Config, error) {
	file := filepath.Join(s.dir, "mirrord-"+strconv.Itoa(s.count)+".json")
	text := fmt.Sprintf(`{"profile": %q, "target": {"path": "pod/%s", "namespace": %q}, "feature": {"fs": "local", "network": {%s}}}`,
		sc.profile, world.PodHostname, world.Namespace, sc.config)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return nil, err
	}
	r, err := resolve.Run(ctx, resolve.Options{
		Config: config.LoadOptions{Path: file},
		Store:  func(*config.Config) (resolve.Store, error) { return openStore{s.profiles}, nil },
	})
	if err != nil {
		return nil, err
	}
	return r.Config, nil
}

// openStore is a folder of profiles, which needs no closing.
type openStore struct{ profile.Store }

// Close does nothing.
func (openStore) Close() error { return nil }

// play is a session under way.
type play struct {
	stdin      *os.File
	subscribed chan struct{}
	seen       chan Seen
	lines      chan Report
	done       chan error

	mu       sync.Mutex
	received []Report
}

// begin starts an agent in the pod and a session of the local program with it.
func (s *stage) begin(ctx context.Context, cfg *config.Config) (*play, error) {
	id, err := tunnel.NewIdentity()
	if err != nil {
		return nil, err
	}
	plan, err := session.NewPlan(cfg, session.Command{Args: []string{s.self, ProgramCommand}})
	if err != nil {
		return nil, err
	}
	agent, err := s.startAgent(ctx, id.Fingerprint())
	if err != nil {
		return nil, err
	}
	stdinR, stdinW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	stdoutR, stdoutW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p := &play{
		stdin: stdinW, subscribed: make(chan struct{}, 1), seen: make(chan Seen, 1),
		lines: make(chan Report, 64), done: make(chan error, 1),
	}
	go p.read(stdoutR)
	go func() {
		status, err := session.Run(ctx, s.log, session.Options{
			Plan: plan, ID: "demo-" + strconv.Itoa(s.count), Build: "demo",
			Identity: id, Attachments: session.Single(session.Attachment{Name: "demo", Pod: "demo", Agent: agent}),
			Stdin: stdinR, Stdout: stdoutW, Stderr: os.Stderr,
			Observer: p,
		})
		_ = stdinR.Close()
		_ = stdoutW.Close()
		if err == nil && status.Code != 0 {
			err = fmt.Errorf("the local program ended with exit code %d", status.Code)
		}
		p.done <- err
	}()
	return p, nil
}

func (s *stage) startAgent(ctx context.Context, client tunnel.Fingerprint) (*local.Agent, error) {
	cmd := exec.Command(s.agent, "serve", "--in-target", "--target-pid", strconv.Itoa(s.world.PodPid()),
		"--client-key", client.String(), "--session", "demo-"+strconv.Itoa(s.count),
		"--listen", "unix:"+filepath.Join(s.dir, "agent-"+strconv.Itoa(s.count)), "--log-level", "error")
	cmd.Stderr = os.Stderr
	var agent *local.Agent
	err := s.world.InPod(func() (err error) {
		agent, err = local.Start(ctx, cmd)
		return err
	})
	return agent, err
}

// watch waits for what the session shows, and is the pod's client meanwhile.
func (s *stage) watch(ctx context.Context, p *play, mode config.IncomingMode) (outcome, error) {
	var o outcome
	select {
	case o.seen = <-p.seen:
	case err := <-p.done:
		p.done <- err
		return o, fmt.Errorf("the session ended early: %w", err)
	case <-ctx.Done():
		return o, errors.New("the local program did not report in time")
	}
	if mode != config.IncomingOff && o.seen.Listening == "" {
		select {
		case <-p.subscribed:
		case <-time.After(patience):
			return o, errors.New("the pod's port was not subscribed in time")
		}
	}
	var err error
	if o.during, err = s.world.Ask(ctx); err != nil {
		return o, fmt.Errorf("asking the pod during the session: %w", err)
	}
	wait := quietTime
	if mode != config.IncomingOff {
		wait = patience
	}
	select {
	case <-p.lines:
	case <-time.After(wait):
	}
	return o, nil
}

// read takes the local program's output.
func (p *play) read(out *os.File) {
	defer out.Close()
	sc := bufio.NewScanner(out)
	for sc.Scan() {
		var r Report
		switch err := json.Unmarshal(sc.Bytes(), &r); {
		case err != nil:
			fmt.Fprintln(os.Stderr, sc.Text())
		case r.Seen != nil:
			p.seen <- *r.Seen
		default:
			p.mu.Lock()
			p.received = append(p.received, r)
			p.mu.Unlock()
			select {
			case p.lines <- r:
			default:
			}
		}
	}
}

func (p *play) receivedSoFar() []Report {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.received
}

// end ends the local program as its user would, by the end of its input.
func (p *play) end(ctx context.Context) error {
	_ = p.stdin.Close()
	select {
	case err := <-p.done:
		return err
	case <-ctx.Done():
		return errors.New("the session did not end in time")
	}
}

// Phase, Attached, Started and Event make a play the session's observer.
func (p *play) Phase(string, string) func(error) { return func(error) {} }

// Attached has nothing to show.
func (p *play) Attached([]session.Attachment) {}

// Started has nothing to show.
func (p *play) Started(int) {}

// Event waits for the subscription of the pod's port, and shows what went wrong.
func (p *play) Event(e session.Event) {
	switch {
	case e.Kind == "port-subscribed" && e.Port == world.PodPort:
		select {
		case p.subscribed <- struct{}{}:
		default:
		}
	case e.Warning:
		fmt.Fprintln(os.Stderr, e.Text)
	}
}
