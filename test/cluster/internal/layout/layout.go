// Package layout says where everything of a test cluster is: its folders, its names, its address ranges and the record
// of a running one.
//
// One cluster belongs to one checkout of the repository, so that two checkouts on one machine do not disturb each other.
// What they build is shared. Below the cache folder:
//
//	bin/hyperkube-<hash>/   binaries, kept; the hash covers their sources and the Go version
//	run/<name>/             one cluster: state.json, kubeconfig, log/, pki/, data/; gone after "down"
package layout

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Environment variables that move the cache and name the cluster.
const (
	EnvCache = "MIRRORD_CLUSTER_CACHE"
	EnvName  = "MIRRORD_CLUSTER_NAME"
)

// modulePath is the first line of this module's go.mod, by which its folder is recognised.
const modulePath = "module github.com/mirrord-go/mirrord/test/cluster"

// Layout holds the three choices from which every path follows. All are absolute.
type Layout struct {
	Source string // the folder of this module
	Cache  string // binaries and state live below it
	Name   string // of the cluster, a file name
}

// Find takes the layout from the environment and the working directory: the module is looked for in the working
// directory, in its test/cluster, and in the same places of each parent; then in those of the executable.
func Find() (Layout, error) {
	source, err := findSource()
	if err != nil {
		return Layout{}, err
	}
	cache, err := cacheFolder()
	if err != nil {
		return Layout{}, err
	}
	name := os.Getenv(EnvName)
	if name == "" {
		name = NameFor(filepath.Dir(filepath.Dir(source)))
	}
	if name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return Layout{}, fmt.Errorf("%s=%q cannot name a cluster: it has to be a file name", EnvName, name)
	}
	return Layout{Source: source, Cache: cache, Name: name}, nil
}

// NameFor is the name of the cluster of the checkout at root. test/clustertest, in another module, has the same rule.
func NameFor(root string) string {
	sum := sha256.Sum256([]byte(filepath.Clean(root)))
	return filepath.Base(root) + "-" + hex.EncodeToString(sum[:4])
}

func findSource() (string, error) {
	var starts []string
	if wd, err := os.Getwd(); err == nil {
		starts = append(starts, wd)
	}
	if exe, err := os.Executable(); err == nil {
		starts = append(starts, filepath.Dir(exe))
	}
	for _, start := range starts {
		for dir := start; ; dir = filepath.Dir(dir) {
			for _, candidate := range []string{dir, filepath.Join(dir, "test", "cluster")} {
				if isSource(candidate) {
					return filepath.EvalSymlinks(candidate)
				}
			}
			if dir == filepath.Dir(dir) {
				break
			}
		}
	}
	return "", errors.New("the sources of the test cluster are not here: run this inside a checkout of the repository")
}

func isSource(dir string) bool {
	b, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	if err != nil {
		return false
	}
	first, _, _ := strings.Cut(string(b), "\n")
	return strings.TrimSpace(first) == modulePath
}

// hidden are the folders that the node sees with content of its own, so nothing that it shares with the machine can be
// below them.
var hidden = []string{"/run", "/var/run", "/var/lib", "/var/log", "/proc", "/sys", "/dev"}

func cacheFolder() (string, error) {
	dir := os.Getenv(EnvCache)
	if dir == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("no folder for the cluster's binaries: %w; set %s", err, EnvCache)
		}
		dir = filepath.Join(base, "mirrord-go", "cluster")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("folder of the cluster's binaries: %w", err)
	}
	for _, h := range hidden {
		if dir == h || strings.HasPrefix(dir, h+"/") {
			return "", fmt.Errorf("the cluster's files cannot be in %s: the node has a %s of its own; set %s to another folder", dir, h, EnvCache)
		}
	}
	return dir, nil
}

// State is the folder of the cluster, removed with it.
func (l Layout) State() string { return filepath.Join(l.Cache, "run", l.Name) }

// Log is the folder of the log files, one for each daemon.
func (l Layout) Log() string { return filepath.Join(l.State(), "log") }

// PKI is the folder of certificates and keys.
func (l Layout) PKI() string { return filepath.Join(l.State(), "pki") }

// Data is the folder of what the daemons store.
func (l Layout) Data() string { return filepath.Join(l.State(), "data") }

// Config is the folder of the daemons' configuration files.
func (l Layout) Config() string { return filepath.Join(l.State(), "config") }

// Images is the folder of the image archives that the node imports when it starts.
func (l Layout) Images() string { return filepath.Join(l.State(), "images") }

// Kubeconfig is the administrator's.
func (l Layout) Kubeconfig() string { return filepath.Join(l.State(), "kubeconfig") }

// Tool is the copy of the cluster command that runs the node and that tests call.
func (l Layout) Tool() string { return filepath.Join(l.State(), "cluster") }

// Binaries is the folder of everything that was built, one folder below it for each version of each program.
func (l Layout) Binaries() string { return filepath.Join(l.Cache, "bin") }
