// Package explain is the command "profile explain".
package explain

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/mirrord-go/mirrord/internal/cli/clierr"
	"github.com/mirrord-go/mirrord/internal/cli/command"
	"github.com/mirrord-go/mirrord/internal/cli/configflags"
	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/config/origin"
	"github.com/mirrord-go/mirrord/internal/profile"
	"github.com/mirrord-go/mirrord/internal/resolve"
)

// Options of the command.
type Options struct {
	Factory *command.Factory

	Flags   *configflags.Flags
	Dir     string // a folder of profiles; empty means the cluster
	Output  command.Enum
	Profile string // empty means the one that the configuration selects
}

// NewCmd returns the command.
func NewCmd(f *command.Factory, runF func(context.Context, *Options) error) *cobra.Command {
	opts := &Options{Factory: f}
	cmd := &cobra.Command{
		Use:   "explain [NAME | -f FILE]",
		Short: "Show a configuration after its profile, and where each value comes from",
		Long: `Show the configuration that a session would run with, after its profile, and where each value
comes from: a default, a line of the file, an environment variable, a flag, or an adjustment
of the profile. It takes the flags of "mirrord exec".

NAME is the profile to look at; without it, it is the one that the configuration selects.`,
		Example: `  mirrord profile explain team-base
  mirrord profile explain -f mirrord.json
  mirrord profile explain -f mirrord.json --profile shop/watch-only --profiles-dir ./profiles -o json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				if cmd.Flags().Changed("profile") {
					return clierr.Usagef(cmd.CommandPath(), "name the profile once: as the argument %q, or by --profile", args[0])
				}
				opts.Profile = args[0]
				if opts.Profile == "" {
					return clierr.Usagef(cmd.CommandPath(), "the name of the profile is empty")
				}
			}
			if runF != nil {
				return runF(cmd.Context(), opts)
			}
			return run(cmd.Context(), opts)
		},
	}
	opts.Flags = configflags.Register(cmd.Flags())
	command.AddOutput(cmd, &opts.Output, "text", "json")
	command.AddProfilesDir(cmd, &opts.Dir)
	return cmd
}

func run(ctx context.Context, opts *Options) error {
	load := opts.Flags.LoadOptions(opts.Factory.LookupEnv)
	load.Stdin = opts.Factory.Streams.In
	if opts.Profile != "" {
		load.Overrides = append(load.Overrides, config.Override{Field: "profile", Value: opts.Profile, Flag: "the argument NAME"})
	}
	resolved, err := resolve.Run(ctx, resolve.Options{
		Config: load,
		Store:  opts.Factory.ProfileStore(opts.Dir),
		// Who looks at a profile alone has no target in mind.
		TargetUndecided: load.Path == "",
	})
	if err != nil {
		return err
	}
	if opts.Output.Value == "json" {
		return printJSON(opts.Factory.Streams.Out, resolved)
	}
	for _, warning := range resolved.Warnings {
		opts.Factory.Streams.Notef("warning: %s", warning)
	}
	return printText(opts.Factory.Streams.Out, resolved)
}

// explanation is the output as JSON.
type explanation struct {
	// Profile is null without one.
	Profile *profile.Report `json:"profile"`
	Values  []config.Leaf   `json:"values"`
	// Warnings are those of verify-config.
	Warnings []string `json:"warnings"`
}

func printJSON(w io.Writer, resolved *resolve.Resolved) error {
	e := explanation{Values: resolved.Config.Leaves(), Warnings: resolved.Warnings}
	if resolved.Profile != nil {
		e.Profile = &resolved.Report
	}
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(e)
}

func printText(w io.Writer, resolved *resolve.Resolved) error {
	var text bytes.Buffer
	fmt.Fprintln(&text, resolved.Report.Summary())
	var steps, values command.Table
	for _, step := range resolved.Report.Steps {
		number, change := fmt.Sprint(step.Number), string(step.Change)
		for _, effect := range step.Effects {
			steps.Row("  "+number, change, effect.Path, effectText(effect))
			number, change = "", ""
		}
	}
	if err := steps.Print(&text); err != nil {
		return err
	}
	fmt.Fprintln(&text)

	values.Row("FIELD", "VALUE", "FROM")
	for _, leaf := range resolved.Config.Leaves() {
		value := string(leaf.Value)
		if value == "null" {
			if leaf.Origin.Kind == origin.Default {
				continue // nobody has anything to say about it
			}
			value = "-"
		}
		values.Row(leaf.Path, value, leaf.Origin.String())
	}
	if err := values.Print(&text); err != nil {
		return err
	}
	_, err := w.Write(text.Bytes())
	return err
}

// effectText says what became of a value, and who had set it.
func effectText(e profile.Effect) string {
	from, to := valueText(e.From), valueText(e.To)
	text := fmt.Sprintf("%s (%s) becomes %s", from, e.FromOrigin, to)
	if from == to {
		text = fmt.Sprintf("stays %s (%s)", from, e.FromOrigin)
	}
	if e.Superseded > 0 {
		text += fmt.Sprintf(", until adjustment %d", e.Superseded)
	}
	return text
}

// valueText spells a value as in a file; "-" is none.
func valueText(value any) string {
	text, err := json.Marshal(value)
	switch {
	case err != nil:
		return fmt.Sprint(value)
	case string(text) == "null":
		return "-"
	}
	return string(text)
}
