// Package configflags are the flags that change the configuration: the same for every
// command that starts a session, or that shows what one would do. Registered on a command's
// flags, they become the file and the overrides that package config loads.
package configflags

import (
	"context"
	"os/exec"
	"strings"

	"github.com/spf13/pflag"

	"github.com/mirrord-go/mirrord/internal/cli/command"
	"github.com/mirrord-go/mirrord/internal/config"
)

// DefaultFile is what -f without a value means.
const DefaultFile = "./.mirrord/mirrord.json"

// FileVariable is the environment variable that names the file when -f is not given.
const FileVariable = "MIRRORD_CONFIG_FILE"

const fileFlag = "config-file"

// Flags are the values of the flags, once they are parsed.
type Flags struct {
	set   *pflag.FlagSet
	file  *pflag.Flag
	flags []flag
}

// flag is one flag and the field that it sets.
type flag struct {
	*pflag.Flag
	// fields get value, or without one what the user gave.
	fields []string
	value  string
	// off: the flag switches a field off, so that --flag=false leaves the field alone.
	off bool
	// shown is the flag as an origin.
	shown string
}

// Register adds the flags to set. It may be called once for a set.
func Register(set *pflag.FlagSet) *Flags {
	f := &Flags{set: set}
	set.VarP(new(command.FileName), fileFlag, "f", "configuration `file` (.json, .yaml, .toml; - is standard input); without a value "+DefaultFile+"; when not given, $"+FileVariable)
	f.file = set.Lookup(fileFlag)

	f.text("profile", "", "profile", "`profile` to apply: NAME, or NAMESPACE/NAME for one of a namespace")
	f.text("target", "t", "target.path", "`target`, such as pod/NAME or deployment/NAME/container/CONTAINER; targetless for none")
	f.text("target-namespace", "n", "target.namespace", "`namespace` of the target")
	f.text("kubeconfig", "", "kubeconfig", "kubeconfig `file` (default $KUBECONFIG, ~/.kube/config)")
	f.text("context", "", "kube_context", "`context` of the kubeconfig")
	f.text("key", "k", "key", "`key` of the session, {{ key }} in the configuration file")
	f.boolean("accept-invalid-certificates", "c", "accept_invalid_certificates", "do not verify the certificate of the API server")

	f.fixed("steal", "feature.network.incoming.mode", string(config.IncomingSteal), "take the target's incoming traffic instead of a copy")
	f.off("no-outgoing", "do not send outgoing connections through the target", "feature.network.outgoing.tcp", "feature.network.outgoing.udp")
	f.off("no-tcp-outgoing", "do not send outgoing TCP connections through the target", "feature.network.outgoing.tcp")
	f.off("no-udp-outgoing", "do not send outgoing UDP datagrams through the target", "feature.network.outgoing.udp")
	f.off("no-remote-dns", "do not resolve names in the target", "feature.network.dns.enabled")
	f.text("fs-mode", "", "feature.fs.mode", "`mode` of file access: read, write, local or localwithoverrides")
	f.text("override-env-vars-include", "x", "feature.env.include", "take only these variables from the target: `names` with ; between, * and ? are wildcards")
	f.text("override-env-vars-exclude", "s", "feature.env.exclude", "do not take these variables from the target: `names` with ; between")
	f.text("env-file", "", "feature.env.env_file", "`file` of NAME=value lines that win over the target's variables")
	f.text("skip-processes", "", "skip_processes", "`names` of programs that run outside of the session, with ; between")

	f.text("agent-namespace", "a", "agent.namespace", "`namespace` of the agent")
	f.text("agent-image", "i", "agent.image", "`image` of the agent")
	f.text("agent-log-level", "l", "agent.log_level", "log `level` of the agent: trace, debug, info, warn, error or off")
	f.text("agent-ttl", "", "agent.ttl", "`seconds` that a finished agent stays")
	f.text("agent-startup-timeout", "", "agent.startup_timeout", "`seconds` to wait for the agent")
	f.boolean("ephemeral-container", "e", "agent.ephemeral", "run the agent as an ephemeral container of the target's pod")
	f.off("no-telemetry", "no effect: there is no telemetry", "telemetry")
	return f
}

func (f *Flags) add(name string, fl flag) {
	fl.Flag = f.set.Lookup(name)
	fl.shown = "--" + name
	f.flags = append(f.flags, fl)
}

func (f *Flags) text(name, short, field, usage string) {
	f.set.StringP(name, short, "", usage)
	f.add(name, flag{fields: []string{field}})
}

func (f *Flags) boolean(name, short, field, usage string) {
	f.set.BoolP(name, short, false, usage)
	f.add(name, flag{fields: []string{field}})
}

func (f *Flags) fixed(name, field, value, usage string) {
	f.set.Bool(name, false, usage)
	f.add(name, flag{fields: []string{field}, value: value, off: true})
}

func (f *Flags) off(name, usage string, fields ...string) {
	f.set.Bool(name, false, usage)
	f.add(name, flag{fields: fields, value: "false", off: true})
}

// File returns the configuration file: of -f, else of the environment, else "".
func (f *Flags) File(lookup func(string) (string, bool)) string {
	if f.file.Changed {
		return f.file.Value.String()
	}
	if lookup == nil {
		return ""
	}
	if path, ok := lookup(FileVariable); ok {
		return path
	}
	return ""
}

// Overrides returns what the flags that were given set, in the order of their registration.
func (f *Flags) Overrides() []config.Override {
	var overrides []config.Override
	for _, fl := range f.flags {
		value := fl.Value.String()
		if !fl.Changed || fl.off && value == "false" {
			continue
		}
		if fl.value != "" {
			value = fl.value
		}
		for _, field := range fl.fields {
			overrides = append(overrides, config.Override{Field: field, Value: value, Flag: fl.shown})
		}
	}
	return overrides
}

// LoadOptions returns the options to load the configuration with; the caller adds Stdin.
func (f *Flags) LoadOptions(lookup func(string) (string, bool)) config.LoadOptions {
	return config.LoadOptions{
		Path:      f.File(lookup),
		Environ:   lookup,
		Overrides: f.Overrides(),
		GitBranch: GitBranch,
	}
}

// GitBranch asks git for the branch of the working directory; false without git, outside of
// a repository, and with no branch checked out.
func GitBranch(ctx context.Context) (string, bool) {
	out, err := exec.CommandContext(ctx, "git", "branch", "--show-current").Output()
	branch := strings.TrimSpace(string(out))
	return branch, err == nil && branch != ""
}
