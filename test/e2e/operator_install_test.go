package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"

	"github.com/mirrord-go/mirrord/test/clustertest"
)

const operatorImage = "test.mirrord.local/mirrord-operator:e2e"

var apiServices = schema.GroupVersionResource{Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices"}

const sessionsAPI = "v1alpha.sessions.mirrord.metalbear.co"

// installation is a cluster without an operator, for one test.
type installation struct {
	*testing.T
	env *clustertest.Env
}

// withoutOperator skips the test when somebody's operator is in the cluster. What the test
// installs is gone after it.
func withoutOperator(t *testing.T) *installation {
	t.Helper()
	env := clustertest.New(t)
	build(t, env)
	_, err := env.Dynamic.Resource(apiServices).Get(t.Context(), sessionsAPI, metav1.GetOptions{})
	if err == nil {
		t.Skip("an operator is installed in this cluster, and this test installs its own")
	}
	env.LoadImage(t, operatorImage, []string{"/mirrord-operator"}, map[string]string{"/mirrord-operator": filepath.Join(built.dir, "mirrord-operator")})
	i := &installation{t, env}
	t.Cleanup(func() {
		cmd := exec.Command(built.mirrord, "operator", "uninstall", "--timeout", (2 * patience).String())
		cmd.Env = i.environ()
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("uninstalling: %v\n%s", err, out)
		}
	})
	return i
}

func (i *installation) environ() []string {
	return append(os.Environ(), "KUBECONFIG="+i.env.Kubeconfig)
}

// mirrord runs a command, and returns its exit code and its output.
func (i *installation) mirrord(args ...string) (code int, stdout, stderr string) {
	i.Helper()
	ctx, cancel := context.WithTimeout(i.Context(), 3*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, built.mirrord, args...)
	cmd.Env = i.environ()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode(), out.String(), errs.String()
	}
	if err != nil {
		i.Fatal(err)
	}
	return 0, out.String(), errs.String()
}

// install runs "operator install" with the images of this test.
func (i *installation) install(more ...string) (code int, stdout, stderr string) {
	i.Helper()
	return i.mirrord(append([]string{"operator", "install", "--image", operatorImage, "--agent-image", agentImage, "--timeout", (2 * patience).String()}, more...)...)
}

func (i *installation) mustInstall(more ...string) (stdout, stderr string) {
	i.Helper()
	code, stdout, stderr := i.install(more...)
	if code != 0 {
		i.Fatalf("exit code %d\n%s%s", code, stdout, stderr)
	}
	return stdout, stderr
}

// serves asks the operator's API through the API server.
func (i *installation) serves(ctx context.Context) error {
	return i.env.Client.Discovery().RESTClient().Get().AbsPath("/apis/sessions.mirrord.metalbear.co/v1alpha/sessions").Do(ctx).Error()
}

// TestOperatorInstall is the life of an installation: made, repeated, looked at, changed while it is used, removed.
func TestOperatorInstall(t *testing.T) {
	i := withoutOperator(t)
	before := i.inventory()

	code, stdout, stderr := i.install("--dry-run")
	if code != 0 || !strings.Contains(stderr, "nothing was changed") {
		t.Fatalf("dry run: exit code %d\n%s%s", code, stdout, stderr)
	}
	if diff := cmp.Diff(before, i.inventory()); diff != "" {
		t.Errorf("a dry run changes the cluster:\n%s", diff)
	}
	i.mustInstall()
	if err := i.serves(t.Context()); err != nil {
		t.Errorf("installed, and does not serve: %v", err)
	}

	stdout, stderr = i.mustInstall()
	if stdout != "" || strings.Contains(stderr, "changed,") {
		t.Errorf("the second time something changes:\n%s%s", stdout, stderr)
	}

	i.checkStatus()
	i.checkAuthority()

	i.servesThroughout("while replicas were replaced", func(turn int) {
		i.mustInstall("--set", fmt.Sprintf("operator.podAnnotations.turn=turn-%d", turn), "--set", "networkPolicy.enabled=false")
	})

	code, stdout, stderr = i.mirrord("operator", "uninstall", "--timeout", (2 * patience).String())
	if code != 0 {
		t.Fatalf("uninstall: exit code %d\n%s%s", code, stdout, stderr)
	}
	i.asBefore(before)
	if code, _, stderr := i.mirrord("operator", "status"); code != 1 || !strings.Contains(stderr, "it is not installed in this cluster") {
		t.Errorf("status afterwards: exit code %d\n%s", code, stderr)
	}
}

func (i *installation) checkStatus() {
	i.Helper()
	eventually(i.T, func() error {
		code, stdout, stderr := i.mirrord("operator", "status")
		if code != 0 || !strings.Contains(stdout, "2 of 2 ready") || !strings.Contains(stdout, "available") {
			return fmt.Errorf("status: exit code %d\n%s%s", code, stdout, stderr)
		}
		_, stdout, _ = i.mirrord("operator", "status", "-o", "json")
		var status struct {
			Healthy  bool
			Ready    int
			Sessions []any
		}
		if err := json.Unmarshal([]byte(stdout), &status); err != nil || !status.Healthy || status.Ready != 2 || status.Sessions == nil {
			return fmt.Errorf("status as JSON: %w\n%s", err, stdout)
		}
		return nil
	})
}

// checkAuthority has somebody take the CA bundle away; the operator brings it back.
func (i *installation) checkAuthority() {
	i.Helper()
	services := i.env.Dynamic.Resource(apiServices)
	bundle := func() string {
		o, err := services.Get(i.Context(), sessionsAPI, metav1.GetOptions{})
		if err != nil {
			i.Fatal(err)
		}
		if skip, _, _ := unstructured.NestedBool(o.Object, "spec", "insecureSkipTLSVerify"); skip {
			i.Error("the API server does not verify the operator")
		}
		text, _, _ := unstructured.NestedString(o.Object, "spec", "caBundle")
		return text
	}
	want := bundle()
	if want == "" {
		i.Fatal("there is no CA bundle")
	}
	if _, err := services.Patch(i.Context(), sessionsAPI, types.MergePatchType, []byte(`{"spec":{"caBundle":null}}`), metav1.PatchOptions{}); err != nil {
		i.Fatal(err)
	}
	for deadline := time.Now().Add(patience); bundle() != want; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			i.Fatal("the CA bundle does not come back")
		}
	}
	for deadline := time.Now().Add(patience); i.serves(i.Context()) != nil; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			i.Fatalf("the API does not come back: %v", i.serves(i.Context()))
		}
	}
}

// servesThroughout checks that no request fails while something is done. Where one does, it is done again: a machine that
// stalls can make the cluster late to learn which replicas there are, but not each time.
func (i *installation) servesThroughout(when string, do func(turn int)) {
	i.Helper()
	const turns = 4
	for turn := 1; ; turn++ {
		failed, calls := i.whileServing(func() { do(turn) })
		if failed == 0 && calls > 0 {
			return
		}
		i.Logf("%d of %d requests failed %s", failed, calls, when)
		if turn == turns {
			i.Errorf("requests failed %s, each of %d times", when, turns)
			return
		}
	}
}

// asBefore waits until the cluster has what it had before. Some of it the cluster removes by itself.
func (i *installation) asBefore(before []string) {
	i.Helper()
	eventually(i.T, func() error {
		if diff := cmp.Diff(before, i.inventory()); diff != "" {
			return fmt.Errorf("something is left behind, or gone (-before +after):\n%s", diff)
		}
		return nil
	})
}

// whileServing asks the API all the time while do runs.
func (i *installation) whileServing(do func()) (failed, calls int) {
	i.Helper()
	ctx, cancel := context.WithCancel(i.Context())
	var asking sync.WaitGroup
	asking.Go(func() {
		for ctx.Err() == nil {
			calls++
			if err := i.serves(ctx); err != nil && ctx.Err() == nil {
				failed++
				i.Logf("call %d: %v", calls, err)
			}
			time.Sleep(50 * time.Millisecond)
		}
	})
	do()
	cancel()
	asking.Wait()
	return failed, calls
}

// TestOperatorInstallRefused: what is in the way is named, and nothing is changed.
func TestOperatorInstallRefused(t *testing.T) {
	i := withoutOperator(t)
	before := i.inventory()
	apply := func(manifest string) {
		t.Helper()
		if out, err := i.env.Kubectl(t, i.env.Kubeconfig, []byte(manifest), "apply", "-f", "-"); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		t.Cleanup(func() {
			_, _ = i.env.Kubectl(t, i.env.Kubeconfig, []byte(manifest), "delete", "--ignore-not-found", "-f", "-")
		})
	}
	for name, test := range map[string]struct{ manifest, says string }{
		"another operator": {
			"apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: mirrord-operator}\nrules: []\n",
			"these objects are there already, and were not made by this command: ClusterRole mirrord-operator",
		},
		"Helm": {
			"apiVersion: scheduling.k8s.io/v1\nkind: PriorityClass\nvalue: 1\nmetadata:\n  name: mirrord-agent\n  labels: {app.kubernetes.io/managed-by: Helm}\n  annotations: {meta.helm.sh/release-name: tools}\n",
			`PriorityClass mirrord-agent belongs to the Helm release "tools"`,
		},
		"a namespace for harmless pods": {
			"apiVersion: v1\nkind: Namespace\nmetadata:\n  name: mirrord\n  labels: {pod-security.kubernetes.io/enforce: baseline}\n",
			`the namespace mirrord has the Pod Security level "baseline"`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			apply(test.manifest)
			code, stdout, stderr := i.install()
			if code != 1 || stdout != "" || !strings.Contains(stderr, test.says) {
				t.Errorf("exit code %d\n%s%s", code, stdout, stderr)
			}
			if _, err := i.env.Kubectl(t, i.env.Kubeconfig, []byte(test.manifest), "delete", "--wait", "-f", "-"); err != nil {
				t.Fatal(err)
			}
		})
	}
	i.asBefore(before)
	t.Run("no image", func(t *testing.T) {
		began := time.Now()
		code, _, stderr := i.install("--image", "test.mirrord.local/nothing:e2e", "--image-pull-policy", "Never")
		if code != 1 || !strings.Contains(stderr, "can't pull the image test.mirrord.local/nothing:e2e") {
			t.Errorf("exit code %d after %s\n%s", code, time.Since(began), stderr)
		}
		i.mustInstall() // repaired by the same command
	})
}

// inventory lists what is in the cluster, but what comes and goes by itself and what tests make in
// namespaces of their own.
func (i *installation) inventory() []string {
	i.Helper()
	// Groups that do not answer are none that this test has made.
	lists, err := i.env.Client.Discovery().ServerPreferredResources()
	if err != nil && !discovery.IsGroupDiscoveryFailedError(err) {
		i.Fatal(err)
	}
	ignored := []string{"events", "leases", "componentstatuses", "pods", "endpoints", "endpointslices", "replicasets", "controllerrevisions", "nodes", "csinodes"}
	var all []string
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			i.Fatal(err)
		}
		for _, resource := range list.APIResources {
			if slices.Contains(ignored, resource.Name) || !slices.Contains(resource.Verbs, "list") || !slices.Contains(resource.Verbs, "get") {
				continue
			}
			found, err := i.env.Dynamic.Resource(gv.WithResource(resource.Name)).List(i.Context(), metav1.ListOptions{})
			if err != nil {
				i.Fatalf("%s: %v", resource.Name, err)
			}
			for _, object := range found.Items {
				if !slices.Contains([]string{"", "default", "kube-system", "mirrord"}, object.GetNamespace()) {
					continue
				}
				if resource.Name == "namespaces" && object.GetName() != "mirrord" {
					continue
				}
				all = append(all, resource.Name+" "+object.GetNamespace()+"/"+object.GetName())
			}
		}
	}
	slices.Sort(all)
	// The types of profiles and policies stay, whoever has installed them.
	return slices.DeleteFunc(all, func(name string) bool {
		return strings.HasPrefix(name, "customresourcedefinitions ") && !strings.Contains(name, "records.mirrord")
	})
}
