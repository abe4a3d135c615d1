// Package build compiles the programs of the cluster from their Go modules, once for each state of their sources.
package build

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mirrord-go/mirrord/test/cluster/internal/progress"
)

// Version is the version of Kubernetes. It has to agree with hyperkube/go.mod.
const Version = "v1.35.4"

// servers are the names under which the hyperkube binary is linked.
var servers = []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubectl", "kubelet"}

// Programs are the folders of the built programs.
type Programs struct {
	Kubernetes string // kubectl, kubelet, kube-apiserver, kube-controller-manager, kube-scheduler, kube-proxy, etcd
	CoreDNS    string // the program coredns
	Pause      string // the program pause
}

// program is one thing to compile.
type program struct {
	name    string // of the binary
	dir     string // of the main package, in the module's folder
	what    string // for the person who waits
	ldflags string
	links   []string
}

// All compiles what is not in the folder into yet, and returns where everything is. source is the folder of the cluster
// module. The first time takes 8 to 17 minutes and needs the module proxy; after that it is a comparison of hashes.
// A build that is interrupted leaves nothing half made.
func All(ctx context.Context, source, into string, out *progress.Printer) (Programs, error) {
	version, err := goVersion(ctx)
	if err != nil {
		return Programs{}, err
	}
	var dirs [3]string
	for i, p := range []program{
		{name: "hyperkube", dir: "hyperkube", what: "building Kubernetes " + Version + " (about 10 minutes the first time)", ldflags: versionFlags(), links: servers},
		{name: "coredns", dir: "coredns", what: "building CoreDNS (about a minute the first time)"},
		{name: "pause", dir: "pause", what: "building the pause program"},
	} {
		if dirs[i], err = p.ensure(ctx, filepath.Join(source, p.dir), into, version, out); err != nil {
			return Programs{}, fmt.Errorf("build %s: %w", p.name, err)
		}
	}
	return Programs{Kubernetes: dirs[0], CoreDNS: dirs[1], Pause: dirs[2]}, nil
}

// ensure returns the folder that holds the program, after compiling it there when it is new.
func (p program) ensure(ctx context.Context, source, into, goVersion string, out *progress.Printer) (string, error) {
	key, err := hashSources(source, goVersion+"\n"+p.ldflags)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(into, p.name+"-"+key[:16])
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(into, 0o755); err != nil {
		return "", err
	}
	made, err := os.MkdirTemp(into, ".new-"+p.name+"-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(made) // nothing to remove after the rename
	if err := os.Chmod(made, 0o755); err != nil {
		return "", err
	}
	if err := out.Step(p.what, func() error { return p.compile(ctx, source, made) }); err != nil {
		return "", err
	}
	for _, link := range p.links {
		if err := os.Symlink(p.name, filepath.Join(made, link)); err != nil {
			return "", err
		}
	}
	if err := os.Rename(made, dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	return dir, nil
}

// compile runs the Go tool. The flags are part of the key of Go's own build cache: changing them costs a full build.
func (p program) compile(ctx context.Context, source, into string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", strings.TrimSpace("-s -w "+p.ldflags), "-o", filepath.Join(into, p.name), ".")
	cmd.Dir = source
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOTOOLCHAIN=local", "GOWORK=off", "GOOS=linux")
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args[:2], " "), err, lastBytes(output.Bytes(), 4096))
	}
	return nil
}

// versionFlags make the servers report their version: the API server refuses to start as v0.0.0.
func versionFlags() string {
	major, minor, _ := strings.Cut(strings.TrimPrefix(Version, "v"), ".")
	minor, _, _ = strings.Cut(minor, ".")
	var b strings.Builder
	for _, kv := range [][2]string{
		{"gitVersion", Version},
		{"gitMajor", major},
		{"gitMinor", minor},
		{"gitTreeState", "clean"},
		{"gitCommit", strings.Repeat("0", 40)},
		{"buildDate", "1970-01-01T00:00:00Z"},
	} {
		fmt.Fprintf(&b, "-X k8s.io/component-base/version.%s=%s ", kv[0], kv[1])
	}
	return strings.TrimSpace(b.String())
}

func goVersion(ctx context.Context) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "version")
	cmd.Env = append(os.Environ(), "GOTOOLCHAIN=local")
	b, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go version: %w; the cluster is built from source, so it needs Go in PATH", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// hashSources covers the module's own files and salt. The versions of everything else are in go.mod and go.sum.
func hashSources(dir, salt string) (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, salt)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	for _, e := range entries { // sorted by name
		n := e.Name()
		if !strings.HasSuffix(n, ".go") && !slices.Contains([]string{"go.mod", "go.sum"}, n) {
			continue
		}
		f, err := os.Open(filepath.Join(dir, n))
		if err != nil {
			return "", err
		}
		fmt.Fprintln(h, n)
		_, err = io.Copy(h, f)
		if err := errors.Join(err, f.Close()); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func lastBytes(b []byte, n int) []byte {
	if len(b) > n {
		return b[len(b)-n:]
	}
	return b
}
