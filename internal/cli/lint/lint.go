// Package lint is the commands "policy lint" and "profile lint", which find mistakes in the
// manifests of a repository before they are in a cluster.
package lint

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mirrord-go/mirrord/api/profiles/v1alpha"
	"github.com/mirrord-go/mirrord/internal/cli/clierr"
	"github.com/mirrord-go/mirrord/internal/cli/command"
	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/manifest"
	"github.com/mirrord-go/mirrord/internal/policy"
	"github.com/mirrord-go/mirrord/internal/profile"
)

// Options of the commands.
type Options struct {
	Factory *command.Factory

	Output    command.Enum
	Recursive bool
	Strict    bool
	Namespace string
	Paths     []string

	kind kind
}

// kind is what is linted.
type kind struct {
	singular, plural string
	group            manifest.Group
	// check finds what the schema does not say.
	check func(manifest.Object) []Finding
}

// NewPolicyCmd returns the command "policy lint".
func NewPolicyCmd(f *command.Factory, runF func(context.Context, *Options) error) *cobra.Command {
	return newCmd(f, kind{"policy", "policies", manifest.Policies(), checkPolicy}, runF)
}

// NewProfileCmd returns the command "profile lint".
func NewProfileCmd(f *command.Factory, runF func(context.Context, *Options) error) *cobra.Command {
	return newCmd(f, kind{"profile", "profiles", manifest.Profiles(), checkProfile}, runF)
}

func newCmd(f *command.Factory, k kind, runF func(context.Context, *Options) error) *cobra.Command {
	opts := &Options{Factory: f, kind: k}
	cmd := &cobra.Command{
		Use:   "lint PATH...",
		Short: "Find mistakes in manifests of " + k.plural,
		Long: fmt.Sprintf(`Find mistakes in manifests of %[1]s, without a cluster. A PATH is a file, or a folder of which
the .yaml, .yml and .json files are read; objects that are no %[1]s are left alone.

Each finding is a line FILE:LINE: TEXT on standard output. The exit code is 1 when one of them
is a mistake, for which a cluster would refuse a manifest or could not use it; warnings
do not count without --strict.`, k.plural),
		Example: fmt.Sprintf(`  mirrord %[1]s lint deploy/%[2]s
  mirrord %[1]s lint -R --strict .`, k.singular, k.plural),
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return clierr.Usagef(cmd.CommandPath(), "%s needs the PATH of a file or folder", cmd.CommandPath())
			}
			opts.Paths = args
			if runF != nil {
				return runF(cmd.Context(), opts)
			}
			return run(cmd.Context(), opts)
		},
	}
	command.AddOutput(cmd, &opts.Output, "text", "json")
	cmd.Flags().BoolVarP(&opts.Recursive, "recursive", "R", false, "read folders in folders, too")
	cmd.Flags().StringVarP(&opts.Namespace, "namespace", "n", "", "the `namespace` of manifests that name none, as with kubectl apply -n")
	cmd.Flags().BoolVar(&opts.Strict, "strict", false, "count warnings as mistakes")
	return cmd
}

// Finding is one line of the output.
type Finding struct {
	manifest.Problem
	// Severity is "error" or "warning".
	Severity string `json:"severity"`
}

// The severities of a [Finding].
const (
	severityError   = "error"
	severityWarning = "warning"
)

func (f Finding) String() string {
	if f.Severity == severityError {
		return f.Problem.String()
	}
	warning := f.Problem
	warning.Message = "warning: " + warning.Message
	return warning.String()
}

func run(ctx context.Context, opts *Options) error {
	reader, err := manifest.NewReader(opts.kind.group)
	if err != nil {
		return err
	}
	reader.Namespace = opts.Namespace
	for _, path := range opts.Paths {
		if err := reader.Path(ctx, path, opts.Recursive); err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("there is no file or folder %q", path)
			}
			return err
		}
	}
	findings := []Finding{}
	for _, p := range reader.Problems() {
		findings = append(findings, Finding{p, severityError})
	}
	for _, object := range reader.Objects() {
		findings = append(findings, opts.kind.check(object)...)
	}
	if len(findings) == 0 && len(reader.Objects()) == 0 {
		return &nothingError{opts.kind, opts.Paths, opts.Recursive}
	}
	slices.SortStableFunc(findings, func(a, b Finding) int { return a.Compare(b.Problem) })
	if err := opts.print(findings, len(reader.Objects())); err != nil {
		return err
	}
	if slices.ContainsFunc(findings, func(f Finding) bool { return opts.Strict || f.Severity == severityError }) {
		return &clierr.ExitError{Code: clierr.Failure}
	}
	return nil
}

func (o *Options) print(findings []Finding, objects int) error {
	out := o.Factory.Streams.Out
	if o.Output.Value == "json" {
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		encoder.SetEscapeHTML(false)
		return encoder.Encode(findings)
	}
	for _, f := range findings {
		if _, err := fmt.Fprintln(out, f); err != nil {
			return err
		}
	}
	if len(findings) == 0 {
		noun := o.kind.plural
		if objects == 1 {
			noun = o.kind.singular
		}
		o.Factory.Streams.Notef("%d %s, nothing to complain about", objects, noun)
	}
	return nil
}

// nothingError says that there was nothing to look at, which in a repository means that the
// path is wrong.
type nothingError struct {
	kind      kind
	paths     []string
	recursive bool
}

func (e *nothingError) Error() string {
	return fmt.Sprintf("there are no manifests of %s in %s", e.kind.plural, strings.Join(e.paths, ", "))
}

// Hint says where they may be.
func (e *nothingError) Hint() string {
	if e.recursive {
		return ""
	}
	return "Folders in folders are read with -R."
}

func checkPolicy(o manifest.Object) []Finding {
	var findings []Finding
	for _, p := range policy.FromObject(o.Value).Problems() {
		severity, text := severityWarning, p.Path+": "+p.Message
		switch p.Severity {
		case policy.Invalid:
			severity = severityError
		case policy.NotEnforced:
			text = p.Path + ": not enforced: " + p.Message
		case policy.Advice:
		}
		findings = append(findings, Finding{o.Problem(p.Path, text), severity})
	}
	return findings
}

func checkProfile(o manifest.Object) []Finding {
	p, err := profile.FromObject(o.Value)
	if err == nil {
		err = p.Check()
	}
	if err != nil {
		return []Finding{{o.Problem("spec", err.Error()), severityError}}
	}
	const list = "spec.featureAdjustments"
	if len(p.Adjustments) == 0 && p.Ref.Namespace == "" {
		return []Finding{{o.Problem(list, list+": the profile changes nothing"), severityWarning}}
	}
	report, err := profile.Apply(&config.Config{}, p)
	if err != nil {
		return []Finding{{o.Problem("spec", err.Error()), severityError}}
	}
	var findings []Finding
	for i, step := range report.Steps {
		later := overruled(step)
		if later == 0 {
			continue
		}
		path := fmt.Sprintf("%s[%d]", list, i)
		findings = append(findings, Finding{o.Problem(path, fmt.Sprintf("%s: %s has no effect: adjustment %d, %s, sets the same",
			path, step.Change, later, changeOf(report, later))), severityWarning})
	}
	return findings
}

// overruled is the number of the adjustment that sets the last of all values of the step
// again; zero when one of them holds.
func overruled(step profile.Step) int {
	later := 0
	for _, effect := range step.Effects {
		if effect.Superseded == 0 {
			return 0
		}
		later = max(later, effect.Superseded)
	}
	return later
}

func changeOf(report profile.Report, number int) v1alpha.Change { return report.Steps[number-1].Change }
