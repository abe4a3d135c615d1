package cli

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

func TestJoinOptionalValues(t *testing.T) {
	tree := func() *cobra.Command {
		root := &cobra.Command{Use: "prog"}
		root.PersistentFlags().Bool("verbose", false, "")
		run := &cobra.Command{Use: "run", Run: func(*cobra.Command, []string) {}}
		run.Flags().SetInterspersed(false)
		run.Flags().StringP("config-file", "f", "", "")
		run.Flags().Lookup("config-file").NoOptDefVal = "default.json"
		run.Flags().StringP("target", "t", "", "")
		run.Flags().BoolP("ephemeral", "e", false, "")
		root.AddCommand(run)
		return root
	}
	tests := []struct{ args, want string }{
		{"", ""},
		{"other -f x", "other -f x"},
		{"run", "run"},
		{"run -f a.json -- -f b.json", "run -f=a.json -- -f b.json"},
		{"run --config-file a.json cmd", "run --config-file=a.json cmd"},
		{"run -f=a.json cmd", "run -f=a.json cmd"},
		{"run -fa.json cmd", "run -fa.json cmd"},
		{"run -f -- cmd", "run -f -- cmd"},
		{"run -f -e cmd", "run -f -e cmd"},
		{"run -f - cmd", "run -f=- cmd"},
		{"run -f", "run -f"},
		{"run -t pod/a -f a.json cmd -f b.json", "run -t pod/a -f=a.json cmd -f b.json"},
		{"run -t -f a.json", "run -t -f a.json"}, // -f is the value of -t
		{"run --target=pod/a -f a.json", "run --target=pod/a -f=a.json"},
		{"run -ef a.json cmd", "run -ef=a.json cmd"},
		{"run -e cmd -f b.json", "run -e cmd -f b.json"},
		{"run -tpod/f cmd -f x", "run -tpod/f cmd -f x"},
		{"run cmd -f b.json", "run cmd -f b.json"},
		{"--verbose run -f a.json", "run --verbose -f=a.json"},
		{"run --unknown -f a.json", "run --unknown -f=a.json"},
	}
	for _, test := range tests {
		got := strings.Join(joinOptionalValues(tree(), strings.Fields(test.args)), " ")
		if got != test.want {
			t.Errorf("%q becomes %q, want %q", test.args, got, test.want)
		}
	}
}
