package command

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mirrord-go/mirrord/internal/cli/clierr"
)

// OwnSignals is an annotation of commands that handle signals themselves. For all others,
// the context ends with the first SIGINT or SIGTERM.
const OwnSignals = "mirrord.own-signals"

// The groups of commands in the root's help.
const (
	GroupSession = "session"
	GroupProfile = "profile"
	GroupCluster = "cluster"
)

// Group makes cmd a command that does nothing but hold others: called alone it shows its
// help, and a name that it does not hold is a usage error with suggestions.
func Group(cmd *cobra.Command, subcommands ...*cobra.Command) *cobra.Command {
	cmd.AddCommand(subcommands...)
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		return UnknownCommand(cmd, args[0])
	}
	return cmd
}

// UnknownCommand is the usage error of a name that cmd does not hold, with suggestions.
func UnknownCommand(cmd *cobra.Command, name string) error {
	text := fmt.Sprintf("%s has no command %q", cmd.CommandPath(), name)
	if cmd.SuggestionsMinimumDistance <= 0 {
		cmd.SuggestionsMinimumDistance = 2 // as cobra does for its own suggestions
	}
	if near := cmd.SuggestionsFor(name); name != "" && len(near) > 0 { // every name begins with the empty one
		text += "; did you mean " + strings.Join(near, " or ") + "?"
	}
	return &clierr.UsageError{Command: cmd.CommandPath(), Err: errors.New(text)}
}

// ExactArgs requires one argument for each name.
func ExactArgs(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return clierr.Usagef(cmd.CommandPath(), "%s needs %s", cmd.CommandPath(), strings.Join(names[len(args):], " and "))
		case len(args) > len(names):
			return clierr.Usagef(cmd.CommandPath(), "%s takes no argument %q", cmd.CommandPath(), args[len(names)])
		}
		return nil
	}
}

// Enum is the value of a flag that has a few words to choose from; the first is usual.
type Enum struct {
	Value   string
	Allowed []string
}

// NewEnum returns a value that accepts the allowed words and is the first of them.
func NewEnum(allowed ...string) Enum { return Enum{Value: allowed[0], Allowed: allowed} }

// String returns the word.
func (e *Enum) String() string { return e.Value }

// Set implements pflag.Value.
func (e *Enum) Set(value string) error {
	if !slices.Contains(e.Allowed, value) {
		return fmt.Errorf("must be %s", strings.Join(e.Allowed, ", "))
	}
	e.Value = value
	return nil
}

// Type implements pflag.Value.
func (e *Enum) Type() string { return strings.Join(e.Allowed, "|") }

// FileName is the value of a flag that names a file or folder. An empty one, as from a shell's
// variable that is not set, is a mistake: it would do what the user does without the flag.
type FileName string

// String returns the name; empty when the flag was not given.
func (n *FileName) String() string { return string(*n) }

// Set implements pflag.Value.
func (n *FileName) Set(value string) error {
	if value == "" {
		return errors.New("the name is empty; leave the flag out if none is meant")
	}
	*n = FileName(value)
	return nil
}

// Type implements pflag.Value; shells complete the names of files for it.
func (n *FileName) Type() string { return "string" }

// AddOutput defines the flag -o with the allowed words.
func AddOutput(cmd *cobra.Command, output *Enum, allowed ...string) {
	*output = NewEnum(allowed...)
	cmd.Flags().VarP(output, "output", "o", "the form of the output")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(allowed, cobra.ShellCompDirectiveNoFileComp))
}
