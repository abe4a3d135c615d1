package cli

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/mirrord-go/mirrord/internal/cli/clierr"
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
		Cmds:                map[string]func(*testscript.TestScript, bool, []string){"mistake": mistake},
		Setup: func(env *testscript.Env) error {
			env.Setenv("KUBECONFIG", env.WorkDir+"/no-kubeconfig")
			env.Setenv("HOME", env.WorkDir)
			return nil
		},
	})
}

// mistake runs a program that must end with the exit code of a usage error.
func mistake(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: mistake PROGRAM [ARG...]")
	}
	err := ts.Exec(args[0], args[1:]...)
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok || exit.ExitCode() != clierr.Usage {
		ts.Fatalf("%q ended with %v, not with exit code %d", args, err, clierr.Usage)
	}
}
