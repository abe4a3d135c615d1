package command

import (
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/mirrord-go/mirrord/internal/cli/clierr"
)

// execute runs a tree of commands as the program does.
func execute(t *testing.T, args ...string) error {
	t.Helper()
	var output Enum
	leaf := &cobra.Command{Use: "show NAME", Args: ExactArgs("NAME"), RunE: func(*cobra.Command, []string) error { return nil }}
	AddOutput(leaf, &output, "text", "json")
	root := Group(&cobra.Command{Use: "prog", SilenceErrors: true, SilenceUsage: true},
		Group(&cobra.Command{Use: "profile"}, leaf))
	root.SetOut(io.Discard)
	root.SetArgs(args)
	return root.Execute()
}

func TestGroupsRefuseUnknownCommands(t *testing.T) {
	for _, args := range [][]string{{}, {"profile"}, {"profile", "show", "x"}, {"profile", "show", "x", "-o", "json"}} {
		if err := execute(t, args...); err != nil {
			t.Errorf("%q: %v", args, err)
		}
	}
	for line, want := range map[string]string{
		"profle":           `prog has no command "profle"; did you mean profile?`,
		"profile sho":      `prog profile has no command "sho"; did you mean show?`,
		"nothing-like-it":  `prog has no command "nothing-like-it"`,
		"profile show":     `prog profile show needs NAME`,
		"profile show x y": `prog profile show takes no argument "y"`,
	} {
		err := execute(t, strings.Fields(line)...)
		if _, ok := errors.AsType[*clierr.UsageError](err); !ok || err.Error() != want {
			t.Errorf("%q: %v, want %q", line, err, want)
		}
	}
	if err := execute(t, "profile", "show", "x", "-o", "xml"); err == nil || !strings.Contains(err.Error(), "must be text, json") {
		t.Errorf("an unknown output: %v", err)
	}
}
