package session

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/mirrord-go/mirrord/internal/config"
	from "github.com/mirrord-go/mirrord/internal/config/origin"
	"github.com/mirrord-go/mirrord/internal/filemode"
	"github.com/mirrord-go/mirrord/internal/intercept"
	"github.com/mirrord-go/mirrord/internal/session/program"
	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

// broughtVariables name directories, or lists of them, that programs of the laptop bring along: where their interpreters, libraries and caches are.
var broughtVariables = []string{
	"PATH", "LD_LIBRARY_PATH", "TMPDIR", "TMP", "TEMP", "XDG_RUNTIME_DIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME",
	"GOROOT", "GOPATH", "GOMODCACHE", "GOCACHE", "CARGO_HOME", "RUSTUP_HOME", "JAVA_HOME", "MAVEN_HOME", "M2_HOME", "GRADLE_USER_HOME", "CLASSPATH",
	"NVM_DIR", "NODE_PATH", "npm_config_cache", "VIRTUAL_ENV", "CONDA_PREFIX", "PYENV_ROOT", "PYTHONPATH", "PYTHONHOME",
	"GEM_HOME", "GEM_PATH", "BUNDLE_PATH", "DOTNET_ROOT", "NUGET_PACKAGES", "PERL5LIB", "COMPOSER_HOME",
}

// fileRules compiles feature.fs for the laptop, where a command with these arguments runs the program at path.
func fileRules(cfg *config.Config, path string, args []string, dir string, environ []string) (*filemode.Rules, error) {
	laptop := filemode.Laptop{Dir: dir, Home: variable(environ, "HOME")}
	if laptop.Dir == "" {
		laptop.Dir, _ = os.Getwd()
	}
	if real, err := filepath.EvalSymlinks(laptop.Dir); err == nil && real != laptop.Dir {
		laptop.Local = append(laptop.Local, real)
	}
	if abs, err := filepath.Abs(path); err == nil {
		laptop.Program = filepath.Dir(abs)
		if real, err := filepath.EvalSymlinks(abs); err == nil {
			laptop.Local = append(laptop.Local, filepath.Dir(real))
		}
	}
	laptop.Local = append(laptop.Local, program.Brought(args, laptop.Dir)...)
	for _, name := range broughtVariables {
		laptop.Local = append(laptop.Local, absolute(variable(environ, name))...)
	}
	for _, dir := range append([]string{laptop.Program}, laptop.Local...) {
		if prefix := program.Prefix(dir); prefix != "" {
			laptop.Local = append(laptop.Local, prefix)
		}
	}
	fs := cfg.Feature.FS
	return filemode.Compile(filemode.Settings{
		Mode:      filemode.Mode(fs.Mode),
		ReadWrite: fs.ReadWrite, ReadOnly: fs.ReadOnly, Local: fs.Local, NotFound: fs.NotFound,
		Mapping: fs.Mapping,
	}, nil, laptop)
}

// absolute are the absolute paths of a list as in PATH. The few that are no directories of programs, such as /, say nothing.
func absolute(list string) []string {
	var out []string
	for _, dir := range filepath.SplitList(list) {
		// A directory of the root alone, such as /app, may well be what the target is asked for; one of PATH is not.
		if filepath.IsAbs(dir) && strings.Trim(dir, "/") != "" {
			out = append(out, dir)
		}
	}
	return out
}

// files starts what serves the target's files, and returns nil when all are the laptop's: because the user wants that, or because there is
// something in the way of what is only the default.
func (s *session) files(ctx context.Context) (*intercept.FileServer, error) {
	cfg := s.o.Plan.config
	rules := s.o.Plan.files
	if !rules.Active() || len(s.o.FilesHolder) == 0 {
		return nil, nil
	}
	const field = "feature.fs.mode"
	if s.targetless && cfg.Origin(field).Kind == from.Default {
		return nil, nil
	}
	server, err := s.serveFiles(ctx, rules)
	switch {
	case err == nil:
		return server, nil
	case ctx.Err() != nil:
		return nil, err
	case needsFiles(cfg.Feature.FS):
		return nil, s.incapable(fmt.Sprintf("\"feature.fs\" can't be done: %v", err), err, `do without it: "feature": {"fs": "local"}`)
	}
	s.o.Observer.Event(Event{
		Kind: "notice", Warning: true,
		Text: fmt.Sprintf("files are the laptop's: %v. \"feature\": {\"fs\": \"local\"} says that this is meant", err),
	})
	return nil, nil
}

func (s *session) serveFiles(ctx context.Context, rules *filemode.Rules) (*intercept.FileServer, error) {
	if err := s.fleet.FilesProblem(ctx); err != nil {
		return nil, err
	}
	// The agent holds to the policies' rules whatever we do; with them known here, what has to be local is the laptop's file.
	if with, err := rules.With(s.filePolicies); err != nil {
		s.log.Warn("a rule for files is the agent's alone", "error", err)
	} else {
		rules = with
	}
	return intercept.ServeFiles(context.WithoutCancel(ctx), s.log, intercept.Files{
		Rules: rules, Target: s.fleet.Files(), Holder: s.o.FilesHolder,
		Notice: func(text string) { s.o.Observer.Event(Event{Kind: "notice", Warning: true, Text: text}) },
	})
}

// filePolicies are what policies say about files, as an agent knows them.
func filePolicies(rules []wire.FileRules) []filemode.Policy {
	var policies []filemode.Policy
	for _, r := range rules {
		policies = append(policies, filemode.Policy{ReadOnly: r.ReadOnly, Local: r.Local, NotFound: r.NotFound})
	}
	return policies
}

// needsFiles says whether a user asked for more than what a laptop alone may do as well.
func needsFiles(fs config.FS) bool {
	return fs.Mode == config.FSWrite || len(fs.ReadWrite)+len(fs.ReadOnly)+len(fs.NotFound)+len(fs.Mapping) > 0
}
