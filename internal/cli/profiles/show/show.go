// Package show is the command "profile show".
package show

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/mirrord-go/mirrord/internal/cli/command"
	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/profile"
)

// Options of the command.
type Options struct {
	Factory *command.Factory

	Cluster command.ClusterFlags
	Dir     string // a folder of profiles; empty means the cluster
	Output  command.Enum
	Profile string
}

// NewCmd returns the command.
func NewCmd(f *command.Factory, runF func(context.Context, *Options) error) *cobra.Command {
	opts := &Options{Factory: f}
	cmd := &cobra.Command{
		Use:   "show NAME",
		Short: "Show what a profile changes",
		Long: `Show each change of a profile, and the configuration values that it sets. NAME is
"name" for a cluster-wide profile and "namespace/name" for one of a namespace.`,
		Example: `  mirrord profile show team-base
  mirrord profile show shop/watch-only --profiles-dir ./profiles`,
		Args: command.ExactArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.Profile = args[0]
			if runF != nil {
				return runF(cmd.Context(), opts)
			}
			return run(cmd.Context(), opts)
		},
	}
	command.AddOutput(cmd, &opts.Output, "text", "json")
	command.AddProfilesDir(cmd, &opts.Dir)
	opts.Cluster.Add(cmd)
	return cmd
}

func run(ctx context.Context, opts *Options) (err error) {
	ref, err := profile.ParseRef(opts.Profile)
	if err != nil {
		return err
	}
	cfg, err := opts.Cluster.Config(ctx, opts.Factory)
	if err != nil {
		return err
	}
	store, err := opts.Factory.Profiles(opts.Dir, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	p, err := store.Get(ctx, ref)
	if err != nil {
		return err
	}
	d, err := describe(p)
	if err != nil {
		return err
	}
	if opts.Output.Value == "json" {
		encoder := json.NewEncoder(opts.Factory.Streams.Out)
		encoder.SetIndent("", "  ")
		err = encoder.Encode(d)
	} else {
		err = d.print(opts.Factory.Streams.Out)
	}
	// A profile of a newer version is shown as far as it is understood; a session refuses it.
	return errors.Join(err, p.Check())
}

// description is what the command shows.
type description struct {
	Profile       profile.Ref `json:"profile"`
	Kind          string      `json:"kind"`
	Source        string      `json:"source,omitempty"`
	Adjustments   []step      `json:"adjustments"`
	UnknownFields []string    `json:"unknown_fields,omitempty"`
}

type step struct {
	Change string  `json:"change"`
	Sets   []value `json:"sets"`
}

type value struct {
	Path string `json:"path"`
	// Value is null when the adjustment removes it.
	Value any `json:"value"`
	// Superseded is the number of the later adjustment whose value holds instead.
	Superseded int `json:"superseded,omitempty"`
}

// describe applies the profile to an empty configuration to see what it sets.
func describe(p *profile.Profile) (description, error) {
	d := description{Profile: p.Ref, Kind: p.Ref.Kind(), Source: p.Source, UnknownFields: p.UnknownFields}
	if p.Check() != nil {
		for _, change := range p.Changes() {
			d.Adjustments = append(d.Adjustments, step{Change: change})
		}
		return d, nil
	}
	report, err := profile.Apply(&config.Config{}, p)
	if err != nil {
		return d, err
	}
	d.Adjustments = make([]step, len(report.Steps))
	for i, s := range report.Steps {
		d.Adjustments[i].Change = string(s.Change)
		for _, effect := range s.Effects {
			d.Adjustments[i].Sets = append(d.Adjustments[i].Sets, value{effect.Path, effect.To, effect.Superseded})
		}
	}
	return d, nil
}

func (d description) print(w io.Writer) error {
	var text bytes.Buffer
	serves := "all targets"
	if d.Profile.Namespace != "" {
		serves = fmt.Sprintf("targets of namespace %q", d.Profile.Namespace)
	}
	fmt.Fprintf(&text, "%s: a %s, for %s\n", d.Profile, d.Kind, serves)
	if d.Source != "" {
		fmt.Fprintf(&text, "from %s\n", d.Source)
	}
	if len(d.Adjustments) == 0 {
		fmt.Fprintln(&text, "It has no adjustments: it changes nothing.")
	}
	var table command.Table
	for i, s := range d.Adjustments {
		number, change := fmt.Sprint(i+1), s.Change
		if len(s.Sets) == 0 {
			table.Row(number, change)
		}
		for _, v := range s.Sets {
			table.Row(number, change, v.String())
			number, change = "", ""
		}
	}
	if err := table.Print(&text); err != nil {
		return err
	}
	_, err := w.Write(text.Bytes())
	return err
}

func (v value) String() string {
	text, err := json.Marshal(v.Value)
	if err != nil {
		text = fmt.Append(nil, v.Value)
	}
	set := fmt.Sprintf("%s = %s", v.Path, text)
	if string(text) == "null" {
		set = "no " + v.Path
	}
	if v.Superseded > 0 {
		set += fmt.Sprintf(" (until adjustment %d)", v.Superseded)
	}
	return set
}
