// Package demo runs mirrord demo as its users do: the built programs, as root and without,
// with the documentation's profiles and with profiles that do something else.
package demo

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	profiles "github.com/mirrord-go/mirrord/api/profiles/v1alpha"
)

// build makes the two programs in a folder that every user may read.
func build(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("builds programs and makes namespaces")
	}
	dir, err := os.MkdirTemp("", "mirrord-demo-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	cmd := exec.Command("go", "build", "-o", dir, "./cmd/...")
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building: %v\n%s", err, out)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// demo runs the command and returns its output and exit code.
func demo(t *testing.T, dir string, user *syscall.Credential, flags ...string) (string, int) {
	t.Helper()
	cmd := exec.Command(filepath.Join(dir, "mirrord"), append([]string{"demo"}, flags...)...)
	cmd.Env = append(os.Environ(), "HOME="+dir, "TMPDIR=/tmp")
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: user}
	out, err := cmd.CombinedOutput()
	var ee *exec.ExitError
	if err != nil && !errors.As(err, &ee) {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// nobody is a user without rights.
var nobody = &syscall.Credential{Uid: 65534, Gid: 65534}

func TestDemo(t *testing.T) {
	dir := build(t)
	for _, c := range []struct {
		name string
		user *syscall.Credential
	}{{"as the caller", nil}, {"without root", nobody}} {
		t.Run(c.name, func(t *testing.T) {
			if c.user != nil && os.Geteuid() != 0 {
				t.Skip("only root can become another user")
			}
			out, code := demo(t, dir, c.user)
			if strings.Contains(out, "needs root, or user namespaces") {
				t.Skip("no namespaces here: " + out)
			}
			if code != 0 {
				t.Errorf("exit code %d", code)
			}
			for _, change := range profiles.Changes() {
				if !strings.Contains(out, "ok   "+string(change)+" ") {
					t.Errorf("%s is not shown", change)
				}
			}
			if t.Failed() {
				t.Log(out)
			}
		})
	}
}

// TestDemoTellsWhatHasNoEffect: with profiles of the same names that do the opposite, every
// adjustment is reported as failed.
func TestDemoTellsWhatHasNoEffect(t *testing.T) {
	dir := build(t)
	folder := t.TempDir()
	const opposite = `
apiVersion: profiles.mirrord.metalbear.co/v1alpha
kind: MirrordClusterProfile
metadata: {name: team-base}
spec: {featureAdjustments: [{change: incoming-mirror}, {change: outgoing-off}, {change: dns-off}]}
---
apiVersion: profiles.mirrord.metalbear.co/v1alpha
kind: MirrordClusterProfile
metadata: {name: observe}
spec: {featureAdjustments: [{change: incoming-off}]}
---
apiVersion: profiles.mirrord.metalbear.co/v1alpha
kind: MirrordClusterProfile
metadata: {name: only-outgoing}
spec: {featureAdjustments: [{change: incoming-steal}]}
---
apiVersion: profiles.mirrord.metalbear.co/v1alpha
kind: MirrordProfile
metadata: {name: watch-only, namespace: shop}
spec: {featureAdjustments: [{change: outgoing-remote}, {change: dns-remote}]}
`
	if err := os.WriteFile(filepath.Join(folder, "profiles.yaml"), []byte(opposite), 0o644); err != nil {
		t.Fatal(err)
	}
	out, code := demo(t, dir, nil, "--profiles-dir", folder)
	if strings.Contains(out, "needs root, or user namespaces") {
		t.Skip("no namespaces here: " + out)
	}
	if code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	for _, change := range profiles.Changes() {
		if !strings.Contains(out, "FAIL "+string(change)+" ") {
			t.Errorf("%s is not reported as failed", change)
		}
	}
	if !strings.Contains(out, "error: not every adjustment had its effect") {
		t.Error("the end does not say so")
	}
	if t.Failed() {
		t.Log(out)
	}
}

// TestDemoTellsOneError: what keeps the demo from being shown is told once, with what to do about it.
func TestDemoTellsOneError(t *testing.T) {
	dir := build(t)
	for name, c := range map[string]struct {
		flags  []string
		stdout string
		says   string
	}{
		"no profiles":        {[]string{"--profiles-dir", "nowhere"}, os.DevNull, "nowhere\" does not exist\n--profiles-dir names a folder"},
		"nowhere to tell it": {nil, "/dev/full", "telling what was seen: write /dev/stdout: no space left on device"},
	} {
		t.Run(name, func(t *testing.T) {
			stdout, err := os.OpenFile(c.stdout, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer stdout.Close()
			var told strings.Builder
			cmd := exec.Command(filepath.Join(dir, "mirrord"), append([]string{"demo"}, c.flags...)...)
			cmd.Dir, cmd.Stdout, cmd.Stderr = dir, stdout, &told
			cmd.Env = append(os.Environ(), "HOME="+dir, "TMPDIR=/tmp")
			if cmd.Run() == nil || cmd.ProcessState.ExitCode() != 1 {
				t.Errorf("exit code %d, want 1", cmd.ProcessState.ExitCode())
			}
			if strings.Contains(told.String(), "needs root, or user namespaces") {
				t.Skip("no namespaces here: " + told.String())
			}
			if strings.Count(told.String(), "error: ") != 1 || !strings.Contains(told.String(), c.says) {
				t.Errorf("told: %s\nwant one error with %q", told.String(), c.says)
			}
		})
	}
}

// TestDemoWithoutNamespaces: who may make none is told what to do.
func TestDemoWithoutNamespaces(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to take rights away")
	}
	dir := build(t)
	// In a user namespace that maps nobody, the process has no rights and can get none.
	cmd := exec.Command(filepath.Join(dir, "mirrord"), "demo")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "TMPDIR=/tmp")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER}
	out, err := cmd.CombinedOutput()
	if err == nil || cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("exit code %d, want 1", cmd.ProcessState.ExitCode())
	}
	for _, want := range []string{"needs root, or user namespaces", "sudo"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the message lacks %q:\n%s", want, out)
		}
	}
}
