package operator

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	sessions "github.com/mirrord-go/mirrord/api/sessions/v1alpha"
	"github.com/mirrord-go/mirrord/internal/cli/clierr"
	"github.com/mirrord-go/mirrord/internal/cli/command"
	"github.com/mirrord-go/mirrord/internal/cli/iostreams"
	"github.com/mirrord-go/mirrord/internal/kube"
)

// cluster is one that does as it is told.
type cluster struct {
	status     *kube.OperatorStatus
	waits      error
	found      bool
	installed  []*unstructured.Unstructured
	dryRun     bool
	waitedFor  string
	deleteCRDs bool
}

func (c *cluster) Context() string { return "test" }
func (c *cluster) Close() error    { return nil }

func (c *cluster) Install(_ context.Context, objects []*unstructured.Unstructured, opts kube.InstallOptions) error {
	c.installed, c.dryRun = objects, opts.DryRun
	for i, object := range objects {
		opts.Each(object, []kube.Change{kube.Created, kube.Unchanged}[i%2])
	}
	return nil
}

func (c *cluster) WaitOperator(_ context.Context, namespace string, progress func(string)) error {
	c.waitedFor = namespace
	progress("for replicas: 0 of 2 are ready")
	return c.waits
}

func (c *cluster) OperatorStatus(context.Context) (*kube.OperatorStatus, error) { return c.status, nil }

func (c *cluster) Uninstall(_ context.Context, opts kube.UninstallOptions) (bool, error) {
	c.deleteCRDs = opts.DeleteCRDs
	opts.Phase("ending the sessions")(nil)
	return c.found, nil
}

// execute runs a command with the cluster.
func execute(c *cluster, args ...string) (stdout, stderr string, err error) {
	streams, _, out, errs := iostreams.Test()
	f := command.New(streams)
	f.LookupEnv = func(string) (string, bool) { return "", false }
	install := newInstall(f, func(cmd *cobra.Command, o *installOptions) error {
		o.connect = func(context.Context) (installer, error) { return c, nil }
		return runInstall(cmd, o)
	})
	status := newStatus(f, func(ctx context.Context, o *statusOptions) error {
		o.connect = func(context.Context) (observer, error) { return c, nil }
		o.now = func() time.Time { return time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC) }
		return runStatus(ctx, o)
	})
	uninstall := newUninstall(f, func(cmd *cobra.Command, o *uninstallOptions) error {
		o.connect = func(context.Context) (uninstaller, error) { return c, nil }
		return runUninstall(cmd, o)
	})
	root := command.Group(&cobra.Command{Use: "operator", SilenceErrors: true, SilenceUsage: true}, install, status, uninstall)
	root.SetArgs(args)
	err = root.ExecuteContext(context.Background())
	return out.String(), errs.String(), err
}

func TestInstall(t *testing.T) {
	c := &cluster{}
	stdout, stderr, err := execute(c, "install", "--registry", "registry.example.com/x", "-n", "tools", "--replicas", "3")
	if err != nil {
		t.Fatal(err)
	}
	if c.waitedFor != "tools" || c.dryRun || len(c.installed) < 20 {
		t.Errorf("installed %d objects, waited for %q", len(c.installed), c.waitedFor)
	}
	for _, object := range c.installed {
		if object.GetKind() == "Deployment" {
			if replicas, _, _ := unstructured.NestedInt64(object.Object, "spec", "replicas"); replicas != 3 {
				t.Errorf("%d replicas", replicas)
			}
		}
	}
	if !strings.Contains(stdout, "Namespace tools created\n") || strings.Contains(stdout, "unchanged") {
		t.Errorf("the output is\n%s", stdout)
	}
	for _, says := range []string{"waiting: for replicas: 0 of 2 are ready", "kubectl create clusterrolebinding", "created, "} {
		if !strings.Contains(stderr, says) {
			t.Errorf("%q is missing in\n%s", says, stderr)
		}
	}
	if _, stderr, err = execute(c, "install", "--registry", "r", "--dry-run"); err != nil || !c.dryRun || !strings.Contains(stderr, "nothing was changed") {
		t.Errorf("dry run: %v\n%s", err, stderr)
	}
	c = &cluster{waits: errors.New("no image")}
	if _, _, err = execute(c, "install", "--registry", "r"); err == nil {
		t.Error("a failure is none")
	}
	c.waitedFor = ""
	if _, _, err = execute(c, "install", "--registry", "r", "--wait=false"); err != nil || c.waitedFor != "" {
		t.Errorf("%v; waited for %q", err, c.waitedFor)
	}
	for _, args := range [][]string{{"install"}, {"install", "--registry", "r", "--timeout", "0s"}, {"install", "--values", "/does/not/exist"}, {"install", "--set", "x"}} {
		if _, _, err := execute(&cluster{}, args...); err == nil {
			t.Errorf("%q is accepted", args)
		}
	}
}

func TestUninstall(t *testing.T) {
	c := &cluster{found: true}
	if _, stderr, err := execute(c, "uninstall"); err != nil || c.deleteCRDs || !strings.Contains(stderr, "Profiles and policies are still there") {
		t.Errorf("%v\n%s", err, stderr)
	}
	if _, stderr, err := execute(c, "uninstall", "--delete-crds"); err != nil || !c.deleteCRDs || strings.Contains(stderr, "still there") {
		t.Errorf("%v\n%s", err, stderr)
	}
	if _, stderr, err := execute(&cluster{}, "uninstall"); err != nil || !strings.Contains(stderr, "there was nothing to uninstall") {
		t.Errorf("%v\n%s", err, stderr)
	}
}

func TestStatus(t *testing.T) {
	began := metav1.NewTime(time.Date(2026, 1, 1, 11, 55, 0, 0, time.UTC))
	good := kube.OperatorStatus{
		Namespace: "mirrord", InstalledBy: "Helm", Version: "1.2.3", Image: "r/mirrord-operator:1.2.3", Replicas: 2, Updated: 2, Ready: 2,
		API:    kube.APIStatus{Available: true},
		Agents: []kube.AgentStatus{{Node: "node1", Pod: "mirrord-agent-a", State: "Running", Ready: true, Image: "r/mirrord-agent:1.2.3"}},
		Sessions: []sessions.Session{{
			ObjectMeta: metav1.ObjectMeta{Name: "quick-fox", Namespace: "shop", CreationTimestamp: began},
			Spec: sessions.SessionSpec{
				Target: "deployment/shop", Profile: "team\x1b[31m",
				Features: sessions.Features{Incoming: sessions.Incoming{Mode: "steal", Ports: []int32{8080, 80}}},
			},
			Status: sessions.SessionStatus{User: "jane@example.com", Phase: sessions.SessionActive},
		}},
	}
	stdout, _, err := execute(&cluster{status: &good}, "status")
	if err != nil {
		t.Fatal(err)
	}
	want := `version    1.2.3, installed by Helm
image      r/mirrord-operator:1.2.3
replicas   2 of 2 ready
namespace  mirrord
API        available

Agents
NODE   POD              STATE  IMAGE
node1  mirrord-agent-a  ready  r/mirrord-agent:1.2.3

Sessions
NAMESPACE  NAME       USER              TARGET           PROFILE    PORTS          PHASE   AGE
shop       quick-fox  jane@example.com  deployment/shop  team?[31m  steal 80,8080  Active  5m
`
	if diff := cmp.Diff(want, stdout); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
	bad := kube.OperatorStatus{Namespace: "mirrord", Problems: []string{"0 of 2 replicas are ready"}}
	stdout, _, err = execute(&cluster{status: &bad}, "status")
	exit, ok := errors.AsType[*clierr.ExitError](err)
	if !ok || exit.Code != 1 || !strings.Contains(stdout, "problem: 0 of 2 replicas are ready") || !strings.Contains(stdout, "No sessions") {
		t.Errorf("%v\n%s", err, stdout)
	}
	stdout, _, err = execute(&cluster{status: &bad}, "status", "-o", "json")
	if err == nil || !strings.Contains(stdout, `"healthy": false`) || !strings.Contains(stdout, `"namespace": "mirrord"`) {
		t.Errorf("%v\n%s", err, stdout)
	}
}
