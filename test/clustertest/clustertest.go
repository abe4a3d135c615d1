// Package clustertest lets tests use a real Kubernetes cluster.
//
// The cluster is the one that test/cluster starts for this checkout ("make cluster-up"). A test begins with
//
//	env := clustertest.New(t)
//	ns := env.Namespace(t)
//	env.Apply(t, ns, manifest)
//	env.WaitReady(t, ns, "deployment/echo")
//
// New skips the test when there is no cluster, or fails it when MIRRORD_E2E=require: so that nobody has to have one, and
// nobody has tests that silently never run. Pod and service addresses can be reached from the machine itself: a test asks
// a pod directly where no forwarding is to be involved.
//
// Every test works in namespaces of its own. When it ends, they are deleted, after a check that nothing is left in them
// that the test did not make: a pod, a job, an ephemeral container that still runs. When it has failed, the state of its
// pods is logged first. All functions fail the test (FailNow) when they cannot do what they say, and so have to be called
// from the test's goroutine; an Env may be shared by parallel subtests.
package clustertest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
)

// Limit is how long anything may take that usually takes seconds. It ends a test that has failed already: nothing is late
// before it is over, however slow the machine.
const Limit = 10 * time.Minute

// LeakGrace is how long after a test its foreign pods and jobs may take to go away.
const LeakGrace = 5 * time.Minute

// Env is a cluster as seen by one test.
type Env struct {
	Kubeconfig string // path, of the administrator
	Config     *rest.Config
	Client     kubernetes.Interface
	Dynamic    dynamic.Interface
	Cluster    Cluster // zero for a cluster that test/cluster did not make

	mapper *restmapper.DeferredDiscoveryRESTMapper

	mu  sync.Mutex
	own map[types.UID]bool // what the test made itself
}

// Cluster is what test/cluster says of a cluster in its state.json.
type Cluster struct {
	Name       string `json:"name"`
	Kubeconfig string `json:"kubeconfig"`
	Kubectl    string `json:"kubectl"`   // path of a kubectl of the same version
	Tool       string `json:"tool"`      // path of the cluster command
	MachineIP  string `json:"machineIP"` // where pods reach this machine
	MachineIP6 string `json:"machineIP6"`
	NodeIP     string `json:"nodeIP"`
	NodeIP6    string `json:"nodeIP6"`
	PID        int    `json:"pid"` // first process of the node

	state string // the folder of state.json
}

// New returns the cluster that $KUBECONFIG names, or else the one of this checkout. A cluster that is not from
// test/cluster, perhaps one that people work with, is used only with MIRRORD_E2E=require. Without a cluster the test is
// skipped, or fails with MIRRORD_E2E=require.
func New(t testing.TB) *Env {
	t.Helper()
	required := os.Getenv("MIRRORD_E2E") == "require"
	env, err := find(t.Context(), required)
	switch {
	case err == nil:
		return env
	case required:
		t.Fatalf("MIRRORD_E2E=require, but: %v", err)
	default:
		t.Skipf("%v; start one with \"make cluster-up\"", err)
	}
	return nil
}

var errNoCluster = errors.New("no test cluster runs for this checkout")

func find(ctx context.Context, foreign bool) (*Env, error) {
	if path := os.Getenv("KUBECONFIG"); path != "" {
		cluster, ok, err := readCluster(filepath.Dir(path))
		if err != nil {
			return nil, err
		}
		if ok || foreign {
			return connect(ctx, path, cluster)
		}
	}
	state, err := stateFolder()
	if err != nil {
		return nil, err
	}
	cluster, ok, err := readCluster(state)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, errNoCluster
	}
	return connect(ctx, cluster.Kubeconfig, cluster)
}

// connect makes the clients and makes sure that the API server answers.
func connect(ctx context.Context, kubeconfig string, cluster Cluster) (*Env, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("test cluster: %w", err)
	}
	config.QPS, config.Burst = 200, 400
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("test cluster: %w", err)
	}
	dyn, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("test cluster: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	if err := client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error(); err != nil {
		return nil, fmt.Errorf("%w: %w", errNoCluster, err)
	}
	return &Env{
		Kubeconfig: kubeconfig, Config: config, Client: client, Dynamic: dyn, Cluster: cluster,
		mapper: restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(client.Discovery())),
		own:    map[types.UID]bool{},
	}, nil
}

// readCluster reads the state.json of a cluster that is complete.
func readCluster(state string) (c Cluster, ok bool, err error) {
	b, err := os.ReadFile(filepath.Join(state, "state.json"))
	if errors.Is(err, os.ErrNotExist) {
		return Cluster{}, false, nil
	}
	if err != nil {
		return Cluster{}, false, fmt.Errorf("test cluster: %w", err)
	}
	var record struct {
		Cluster
		Ready bool `json:"ready"`
	}
	if err := json.Unmarshal(b, &record); err != nil {
		return Cluster{}, false, fmt.Errorf("test cluster: %s: %w", state, err)
	}
	record.state = state
	return record.Cluster, record.Ready, nil
}

// stateFolder is where test/cluster keeps the cluster of this checkout. Its package layout has the same rules.
func stateFolder() (string, error) {
	cache := os.Getenv("MIRRORD_CLUSTER_CACHE")
	if cache == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("test cluster: %w", err)
		}
		cache = filepath.Join(base, "mirrord-go", "cluster")
	}
	name := os.Getenv("MIRRORD_CLUSTER_NAME")
	if name == "" {
		root, err := moduleRoot()
		if err != nil {
			return "", err
		}
		sum := sha256.Sum256([]byte(root))
		name = filepath.Base(root) + "-" + hex.EncodeToString(sum[:4])
	}
	return filepath.Join(cache, "run", name), nil
}

// moduleRoot is the folder of this module's go.mod: tests run in the folder of their package.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("test cluster: %w", err)
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return "", fmt.Errorf("test cluster: %w", err)
	}
	for ; ; dir = filepath.Dir(dir) {
		b, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(b), "module github.com/mirrord-go/mirrord\n") {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("test cluster: the test does not run inside the module")
		}
	}
}

// limited returns a context for work of the test t.
func limited(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), Limit)
	t.Cleanup(cancel)
	return ctx
}

// poll calls check until it returns nil, and returns its last error when ctx ends first.
func poll(ctx context.Context, check func(context.Context) error) error {
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(100 * time.Millisecond):
		}
	}
}
