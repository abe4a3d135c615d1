package session

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/envvars"
	"github.com/mirrord-go/mirrord/internal/filemode"
	"github.com/mirrord-go/mirrord/internal/intercept"
	"github.com/mirrord-go/mirrord/internal/session/program"
	"github.com/mirrord-go/mirrord/internal/session/route"
	"github.com/mirrord-go/mirrord/internal/session/tlsdelivery"
)

// The laptop's own name servers and names, see resolv.conf(5) and hosts(5).
const (
	resolvConf = "/etc/resolv.conf"
	hosts      = "/etc/hosts"
)

// Exit codes of a command that could not be run, as shells give them (POSIX, XCU 2.8.2).
const (
	ExitNotExecutable = 126
	ExitNotFound      = 127
)

// CommandError says that the program can't be run.
type CommandError struct {
	// Name as the user wrote it.
	Name string
	// Code is ExitNotFound or ExitNotExecutable.
	Code int
	Err  error
}

// Error names the program.
func (e *CommandError) Error() string {
	if e.Code == ExitNotFound {
		return fmt.Sprintf("%s: command not found", e.Name)
	}
	return fmt.Sprintf("%s can't be run: %v", e.Name, e.Err)
}

// Unwrap returns the cause.
func (e *CommandError) Unwrap() error { return e.Err }

// PlatformError says that no session can run on this system. It wraps
// [intercept.ErrUnsupported].
type PlatformError struct{ OS string }

// Error names the system.
func (e *PlatformError) Error() string {
	return fmt.Sprintf("a session needs Linux to run a process in, and this is %s", e.OS)
}

// Unwrap returns [intercept.ErrUnsupported].
func (e *PlatformError) Unwrap() error { return intercept.ErrUnsupported }

// Hint says where a session can run.
func (e *PlatformError) Hint() string {
	return "Run mirrord exec in a Linux container or virtual machine on this computer (Docker, WSL 2, Lima), with your\n" +
		"sources and your kubeconfig mounted. All other commands of mirrord work here."
}

// Plan is a session whose local half has been checked: the program exists, the environment
// rules compile, and this version does everything that the configuration asks for.
type Plan struct {
	config  *config.Config
	rules   *envvars.Rules
	path    string
	args    []string
	dir     string
	environ []string
	table   *route.Table
	files   *filemode.Rules
	// delivery is for requests that agents took out of TLS.
	delivery *tlsdelivery.Delivery

	skips     *program.Skips
	debuggers *program.Debuggers
}

// outside is nil when all programs are part of the session.
func (p *Plan) outside() func(intercept.Program) bool {
	if p.skips.Empty() {
		return nil
	}
	return p.skips.Has
}

// Command is what a session runs.
type Command struct {
	// Args are the program, found as a shell finds it, and its arguments.
	Args []string
	// Dir is the working directory; empty is the current one.
	Dir string
	// Environ is the laptop's environment; nil is the current one.
	Environ []string
}

// NewPlan checks a session before anything exists in a cluster. Errors are a
// *[CommandError] for the program, [intercept.ErrUnsupported] for this system, and plain
// ones for the configuration.
func NewPlan(cfg *config.Config, cmd Command) (*Plan, error) {
	if err := Supported(); err != nil {
		return nil, err
	}
	p := &Plan{config: cfg, args: cmd.Args, dir: cmd.Dir, environ: cmd.Environ}
	if p.environ == nil {
		p.environ = os.Environ()
	}
	var err error
	if p.path, err = find(cmd.Args); err != nil {
		return nil, err
	}
	if p.rules, err = rules(cfg); err != nil {
		return nil, err
	}
	if cfg.Feature.Magic.AWS && cfg.Target.Path.Kind != config.Targetless {
		p.rules.HideAWS()
	}
	p.skips = program.NewSkips(cfg)
	if p.debuggers, err = program.NewDebuggers(variable(p.environ, program.IgnoreVariable)); err != nil {
		return nil, err
	}
	if p.delivery, err = delivery(cfg); err != nil {
		return nil, err
	}
	var nameServers []netip.Addr
	if b, err := os.ReadFile(resolvConf); err == nil {
		nameServers = route.NameServers(b)
	}
	if p.table, err = route.New(cfg.Feature.Network, nameServers); err != nil {
		return nil, err
	}
	if b, err := os.ReadFile(hosts); err == nil {
		p.table.LearnHosts(b)
	}
	p.table.LearnNetworks(networks())
	if p.files, err = fileRules(cfg, p.path, cmd.Args, p.dir, p.environ); err != nil {
		return nil, err
	}
	return p, nil
}

// networks are those that this machine is in now.
func networks() (all []netip.Prefix) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil // nothing but broadcasts depends on it
	}
	for _, a := range addrs {
		if n, err := netip.ParsePrefix(a.String()); err == nil {
			all = append(all, n)
		}
	}
	return all
}

// variable is the value of a variable; of several with its name the last, as for os/exec.
func variable(environ []string, name string) (value string) {
	for _, v := range environ {
		if is, ok := strings.CutPrefix(v, name+"="); ok {
			value = is
		}
	}
	return value
}

// Config is the plan's configuration.
func (p *Plan) Config() *config.Config { return p.config }

// Supported returns a *[PlatformError], or an error that wraps [intercept.ErrUnsupported] or
// [intercept.ErrNested], where no session can run.
func Supported() error {
	if runtime.GOOS != "linux" {
		return &PlatformError{OS: runtime.GOOS}
	}
	return intercept.Check()
}

// find looks for the program as a shell does.
func find(args []string) (string, error) {
	if len(args) == 0 || args[0] == "" {
		return "", errors.New("there is no command to run")
	}
	path, err := exec.LookPath(args[0])
	switch {
	case err == nil || errors.Is(err, exec.ErrDot):
		// A program of the current directory that PATH names by ".": the user's choice.
		return path, nil
	case errors.Is(err, fs.ErrPermission):
		return "", &CommandError{Name: args[0], Code: ExitNotExecutable, Err: err}
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		return "", &CommandError{Name: args[0], Code: ExitNotFound, Err: err}
	}
	return "", &CommandError{Name: args[0], Code: ExitNotExecutable, Err: err}
}

// rules compiles feature.env together with its file.
func rules(cfg *config.Config) (*envvars.Rules, error) {
	const field = "feature.env.env_file"
	env := cfg.Feature.Env
	if env.EnvFile == "" {
		return envvars.Compile(env, nil)
	}
	fail := func(message, suggestion string) error {
		return &config.Problems{List: []config.Problem{{
			Path: field, Origin: cfg.Origin(field), Message: message, Suggestion: suggestion,
		}}}
	}
	b, err := os.ReadFile(env.EnvFile)
	if err != nil {
		return nil, fail(err.Error(), "the path starts at the current directory")
	}
	file, err := envvars.Parse(b)
	if err != nil {
		return nil, fail(fmt.Sprintf("%s: %v", env.EnvFile, err), "")
	}
	return envvars.Compile(env, file)
}

// delivery reads the files of tls_delivery.
func delivery(cfg *config.Config) (*tlsdelivery.Delivery, error) {
	d, err := tlsdelivery.New(cfg.Feature.Network.Incoming.Delivery())
	if bad, ok := errors.AsType[*tlsdelivery.FieldError](err); ok {
		field := "feature.network.incoming.tls_delivery." + bad.Field
		return nil, &config.Problems{List: []config.Problem{{
			Path: field, Origin: cfg.Origin(field), Message: bad.Err.Error(), Suggestion: "paths start at the current directory",
		}}}
	}
	return d, err
}

// NewID makes a name for a session: ten lower-case letters and digits.
func NewID() string { return strings.ToLower(rand.Text()[:10]) }
