package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mirrord-go/mirrord/test/cluster/image"
	"github.com/mirrord-go/mirrord/test/cluster/internal/layout"
	"github.com/mirrord-go/mirrord/test/cluster/internal/lifecycle"
	"github.com/mirrord-go/mirrord/test/cluster/internal/progress"
)

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "cluster",
		Short: "A real Kubernetes cluster of one node for the tests",
		Long: `A real Kubernetes cluster of one node for the tests, in namespaces of its own on this machine.

It is built from source, belongs to this checkout, and lives below ` + "$" + layout.EnvCache + `
(by default the user's cache folder, mirrord-go/cluster). ` + "$" + layout.EnvName + ` gives it another name.`,
		SilenceUsage: true, SilenceErrors: true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	root.AddCommand(newUp(), newDown(), newStatus(), newKubeconfig(), newKubectl(), newExec(), newLoadImage(), newClean())
	return root
}

func newUp() *cobra.Command {
	return &cobra.Command{
		Use: "up", Short: "Start the cluster, unless it runs; build and install what is missing", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := layout.Find()
			if err != nil {
				return err
			}
			out := progress.New(cmd.ErrOrStderr())
			record, err := lifecycle.Up(cmd.Context(), l, out)
			if err != nil {
				return err
			}
			out.Printf("the cluster %s is ready; to use it:", record.Name)
			fmt.Fprintf(cmd.OutOrStdout(), "export KUBECONFIG=%s\n", record.Kubeconfig)
			return nil
		},
	}
}

func newDown() *cobra.Command {
	return &cobra.Command{
		Use: "down", Short: "End the cluster and remove everything of it but the built binaries", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := layout.Find()
			if err != nil {
				return err
			}
			out := progress.New(cmd.ErrOrStderr())
			was, err := lifecycle.Down(cmd.Context(), l, out)
			if err != nil {
				return err
			}
			if was {
				out.Printf("the cluster %s is gone", l.Name)
			} else {
				out.Printf("there was no cluster %s", l.Name)
			}
			return nil
		},
	}
}

func newStatus() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Say whether the cluster runs; exit 1 when it does not", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, record, err := running(cmd)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "cluster     %s\nkubeconfig  %s\nlogs        %s\nnode        %s %s\nmachine     %s %s\n",
				record.Name, record.Kubeconfig, l.Log(), record.NodeIP, record.NodeIP6, record.MachineIP, record.MachineIP6)
			return nil
		},
	}
}

func newKubeconfig() *cobra.Command {
	return &cobra.Command{
		Use: "kubeconfig", Short: "Print the path of the administrator's kubeconfig", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, record, err := running(cmd)
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), record.Kubeconfig)
			return nil
		},
	}
}

func newKubectl() *cobra.Command {
	return &cobra.Command{
		Use: "kubectl [ARGUMENT...]", Short: "Run kubectl as the administrator", DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			_, record, err := running(cmd)
			if err != nil {
				return err
			}
			return run(cmd, record, record.Kubectl, args...)
		},
	}
}

func newExec() *cobra.Command {
	return &cobra.Command{
		Use: "exec -- PROGRAM [ARGUMENT...]", Short: "Run a program in the node's namespaces, such as ctr, nft or ip", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, record, err := running(cmd)
			if err != nil {
				return err
			}
			return run(cmd, record, "nsenter", lifecycle.NodeArguments(record, args...)...)
		},
	}
}

func newLoadImage() *cobra.Command {
	var tag, user, state string
	var entrypoint, env []string
	cmd := &cobra.Command{
		Use: "load-image --tag TAG [--entrypoint PROGRAM] /PATH/IN/IMAGE=FILE...", Short: "Make an image of files and give it to the node",
		Example: "  cluster load-image --tag cluster.local/agent:1 --entrypoint /mirrord-agent /mirrord-agent=bin/mirrord-agent",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if state == "" {
				l, err := layout.Find()
				if err != nil {
					return err
				}
				state = l.State()
			}
			spec := image.Spec{Files: map[string]string{}, Entrypoint: entrypoint, Env: env, User: user}
			for _, arg := range args {
				dst, src, ok := strings.Cut(arg, "=")
				if !ok {
					return fmt.Errorf("%q: files are written /PATH/IN/IMAGE=FILE", arg)
				}
				spec.Files[dst] = src
			}
			img, err := image.Build(spec)
			if err != nil {
				return err
			}
			loaded, err := lifecycle.LoadImage(cmd.Context(), state, tag, img)
			if err != nil {
				return err
			}
			if loaded {
				fmt.Fprintf(cmd.ErrOrStderr(), "loaded %s\n", tag)
			} else {
				fmt.Fprintf(cmd.ErrOrStderr(), "the node has this %s already\n", tag)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&tag, "tag", "", "full name of the image, such as cluster.local/agent:1")
	cmd.Flags().StringSliceVar(&entrypoint, "entrypoint", nil, "program and first arguments, comma separated")
	cmd.Flags().StringArrayVar(&env, "env", nil, "KEY=VALUE, may be repeated (default PATH=/bin)")
	cmd.Flags().StringVar(&user, "user", "", "numeric uid or uid:gid (default root)")
	cmd.Flags().StringVar(&state, "state", "", "state folder of the cluster (default that of this checkout)")
	if err := cmd.MarkFlagRequired("tag"); err != nil {
		panic(err) // the flag is defined above
	}
	return cmd
}

func newClean() *cobra.Command {
	return &cobra.Command{
		Use: "clean", Short: "Remove the built binaries; the next start builds them again", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := layout.Find()
			if err != nil {
				return err
			}
			return lifecycle.Clean(l, progress.New(cmd.ErrOrStderr()))
		},
	}
}

// running returns the cluster of this checkout, or an error when it does not run.
func running(cmd *cobra.Command) (layout.Layout, layout.Record, error) {
	l, err := layout.Find()
	if err != nil {
		return layout.Layout{}, layout.Record{}, err
	}
	record, ok, err := lifecycle.Status(cmd.Context(), l)
	if err == nil && !ok {
		err = lifecycle.ErrNotRunning
	}
	return l, record, err
}

// run runs a program for the user, with this process's input and output.
func run(cmd *cobra.Command, record layout.Record, program string, args ...string) error {
	child := exec.CommandContext(cmd.Context(), program, args...)
	child.Stdin, child.Stdout, child.Stderr = os.Stdin, os.Stdout, os.Stderr
	child.Env = append(os.Environ(), "KUBECONFIG="+record.Kubeconfig, "PATH="+filepath.Dir(record.Kubectl)+":"+os.Getenv("PATH"))
	return child.Run()
}
