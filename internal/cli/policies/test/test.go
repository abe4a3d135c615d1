// Package test is the command "policy test".
package test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mirrord-go/mirrord/internal/cli/clierr"
	"github.com/mirrord-go/mirrord/internal/cli/command"
	"github.com/mirrord-go/mirrord/internal/policy/suite"
)

// Options of the command.
type Options struct {
	Factory *command.Factory

	Output  command.Enum
	Verbose bool
	Files   []string
}

// NewCmd returns the command.
func NewCmd(f *command.Factory, runF func(context.Context, *Options) error) *cobra.Command {
	opts := &Options{Factory: f}
	cmd := &cobra.Command{
		Use:   "test SUITE.yaml...",
		Short: "Run your own tests of policies",
		Long: `Run your own tests of policies: cases that say which sessions are to be allowed and which
refused. No cluster is asked. docs/policies.md has the format of a suite, and
examples/policies/test/suite.yaml is one.

The exit code is 1 when a case does not come out as expected.`,
		Example: `  mirrord policy test policies/suite.yaml
  mirrord policy test -v policies/*_suite.yaml`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return clierr.Usagef(cmd.CommandPath(), "%s needs a SUITE.yaml", cmd.CommandPath())
			}
			opts.Files = args
			if runF != nil {
				return runF(cmd.Context(), opts)
			}
			return run(cmd.Context(), opts)
		},
	}
	command.AddOutput(cmd, &opts.Output, "text", "json")
	cmd.Flags().BoolVarP(&opts.Verbose, "show-all", "v", false, "show the cases that pass, too")
	return cmd
}

// result is what came of a suite, as JSON.
type result struct {
	File  string         `json:"file"`
	Cases []suite.Result `json:"cases"`
}

func run(ctx context.Context, opts *Options) error {
	results := make([]result, 0, len(opts.Files))
	for _, file := range opts.Files {
		s, err := suite.Load(file)
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("there is no suite %q", file)
			}
			return err
		}
		cases, err := s.Run(ctx)
		if err != nil {
			return err
		}
		results = append(results, result{file, cases})
	}
	passed := true
	for _, r := range results {
		passed = passed && r.failed() == 0
	}
	err := opts.print(results)
	if err == nil && !passed {
		err = &clierr.ExitError{Code: clierr.Failure}
	}
	return err
}

func (r result) failed() int {
	n := 0
	for _, c := range r.Cases {
		if !c.Passed() {
			n++
		}
	}
	return n
}

func (o *Options) print(results []result) error {
	out := o.Factory.Streams.Out
	if o.Output.Value == "json" {
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		encoder.SetEscapeHTML(false)
		return encoder.Encode(results)
	}
	for _, r := range results {
		if err := r.print(out, o.Verbose); err != nil {
			return err
		}
	}
	return nil
}

// print looks like what "go test" prints.
func (r result) print(w io.Writer, verbose bool) error {
	var text bytes.Buffer
	for _, c := range r.Cases {
		switch {
		case !c.Passed():
			fmt.Fprintf(&text, "--- FAIL: %s (%s:%d)\n", c.Name, r.File, c.Line)
			for _, failure := range c.Failures {
				fmt.Fprintf(&text, "    %s\n", strings.ReplaceAll(failure, "\n", "\n      "))
			}
		case verbose:
			fmt.Fprintf(&text, "--- PASS: %s\n", c.Name)
		}
	}
	word, count := "ok", fmt.Sprintf("%d cases", len(r.Cases))
	if failed := r.failed(); failed > 0 {
		word, count = "FAIL", fmt.Sprintf("%d of %d cases", failed, len(r.Cases))
	}
	fmt.Fprintf(&text, "%-4s  %s  %s\n", word, r.File, count)
	_, err := w.Write(text.Bytes())
	return err
}
