package clustertest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// WorkloadImage is the name of the image that LoadWorkload makes.
const WorkloadImage = "cluster.local/workload:test"

// LoadImage makes an image of files, given by their absolute paths in it, and gives it to the node. Pods use it with
// imagePullPolicy Never or IfNotPresent. It is quick when the node has the same image already.
func (e *Env) LoadImage(t testing.TB, tag string, entrypoint []string, files map[string]string) {
	t.Helper()
	if e.Cluster.Tool == "" {
		t.Fatal("images can only be loaded into a cluster of test/cluster")
	}
	args := []string{"load-image", "--state", e.Cluster.state, "--tag", tag, "--entrypoint", strings.Join(entrypoint, ",")}
	for _, dst := range slices.Sorted(maps.Keys(files)) {
		args = append(args, dst+"="+files[dst])
	}
	if _, err := runProgram(limited(t), nil, nil, e.Cluster.Tool, args...); err != nil {
		t.Fatal(err)
	}
}

// LoadWorkload builds test/workload, gives it to the node as the image WorkloadImage with the program /bin/workload, and
// returns the path of the program on this machine.
func (e *Env) LoadWorkload(t testing.TB) string {
	t.Helper()
	program := Build(t, "./test/workload")
	e.LoadImage(t, WorkloadImage, []string{"/bin/workload"}, map[string]string{"/bin/workload": program})
	return program
}

// Build compiles a main package of this module, named as from its root, into a static binary, and returns its path. The
// file is gone after the test.
func Build(t testing.TB, pkg string) string {
	t.Helper()
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), filepath.Base(pkg))
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags=-s -w", "-o", out, pkg)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build %s: %v\n%s", pkg, err, b)
	}
	return out
}

// runProgram runs a program with env added to the environment, and returns its standard output. The error holds what it
// wrote to the other one.
func runProgram(ctx context.Context, stdin io.Reader, env []string, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s %s: %w: %s", filepath.Base(program), strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.String(), nil
}
