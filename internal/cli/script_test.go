package cli

import (
	"context"
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/mirrord-go/mirrord/internal/cli/iostreams"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"mirrord": func() { os.Exit(Run(context.Background(), iostreams.System(), os.Args[1:])) },
	})
}

// TestScripts runs the stories in testdata/script, each the whole program in a folder of
// its own, with no cluster and no kubeconfig.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("KUBECONFIG", env.WorkDir+"/no-kubeconfig")
			env.Setenv("HOME", env.WorkDir)
			return nil
		},
	})
}
