package targets

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mirrord-go/mirrord/internal/cli/clierr"
	"github.com/mirrord-go/mirrord/internal/cli/command"
	"github.com/mirrord-go/mirrord/internal/cli/iostreams"
	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/kube"
)

// TestRichNamespaces: all namespaces, the current one among them also when nothing is in it yet.
func TestRichNamespaces(t *testing.T) {
	for _, test := range []struct {
		name string
		all  []string
		args []string
		want string
	}{
		{"all", []string{"default", "of-context", "shop"}, nil, `"current_namespace":"of-context","namespaces":["default","of-context","shop"]`},
		{"another", []string{"default", "shop"}, []string{"-n", "shop"}, `"current_namespace":"shop","namespaces":["default","shop"]`},
		{"not there", []string{"default", "shop"}, []string{"-n", "new"}, `"current_namespace":"new","namespaces":["default","new","shop"]`},
		{"none may be listed", nil, []string{"-n", "shop"}, `"current_namespace":"shop","namespaces":["shop"]`},
	} {
		t.Run(test.name, func(t *testing.T) {
			out, stderr, err := execute(t, &fakeCluster{namespaces: test.all}, map[string]string{RichVariable: "true"}, test.args...)
			if err != nil || stderr.Len() > 0 {
				t.Fatalf("%v\n%s", err, stderr)
			}
			if want := `{"targets":[],` + test.want + "}\n"; out.String() != want {
				t.Errorf("printed %s, want %s", out, want)
			}
		})
	}
}

// fakeCluster has these targets and remembers what it was asked.
type fakeCluster struct {
	paths []config.TargetPath
	err   error
	// operator are the targets by the word of an operator; nil when there is none. Down is
	// why it does not answer.
	operator []config.TargetPath
	down     error
	// namespaces are what the user may list; nil means that they may not.
	namespaces []string

	cfg       *config.Config
	namespace string
	kinds     []config.TargetKind
	asked     bool
	closed    bool
}

func (c *fakeCluster) HasOperator(context.Context) (bool, error) { return c.operator != nil, c.down }

func (c *fakeCluster) OperatorTargets(context.Context, string, []config.TargetKind) ([]config.TargetPath, error) {
	return c.operator, nil
}

func (c *fakeCluster) Namespace() string { return "of-context" }
func (c *fakeCluster) Close() error      { c.closed = true; return nil }

func (c *fakeCluster) Namespaces(context.Context) ([]string, error) {
	if c.namespaces == nil {
		return nil, errors.New("forbidden")
	}
	return slices.Clone(c.namespaces), nil
}

func (c *fakeCluster) ListTargets(_ context.Context, namespace string, kinds []config.TargetKind) ([]config.TargetPath, error) {
	c.asked, c.namespace, c.kinds = true, namespace, kinds
	return c.paths, c.err
}

// execute runs the command line against the cluster.
func execute(t *testing.T, c *fakeCluster, env map[string]string, args ...string) (stdout, stderr *bytes.Buffer, err error) {
	t.Helper()
	streams, _, stdout, stderr := iostreams.Test()
	f := &command.Factory{Streams: streams, Logger: slog.New(slog.DiscardHandler), LookupEnv: func(name string) (string, bool) {
		value, ok := env[name]
		return value, ok
	}}
	cmd := NewCmd(f, func(ctx context.Context, opts *Options) error {
		opts.Connect = func(cfg *config.Config) (Cluster, error) { c.cfg = cfg; return c, nil }
		return run(ctx, opts)
	})
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetArgs(args)
	err = cmd.ExecuteContext(t.Context())
	if c.cfg != nil && !c.closed {
		t.Error("the cluster was not closed")
	}
	return stdout, stderr, err
}

var shop = []config.TargetPath{
	{Kind: config.Deployment, Name: "shop"},
	{Kind: config.Pod, Name: "shop-1", Container: "web"},
}

func TestOutput(t *testing.T) {
	const list = `["deployment/shop","pod/shop-1/container/web"]`
	const rich = `{"targets":[{"path":"deployment/shop","available":true},{"path":"pod/shop-1/container/web","available":true}],` +
		`"current_namespace":"of-context","namespaces":["of-context"]}`
	tests := []struct {
		name  string
		paths []config.TargetPath
		env   map[string]string
		args  []string
		want  string
	}{
		{"list", shop, nil, nil, list},
		{"json", shop, nil, []string{"-o", "json"}, list},
		{"text", shop, nil, []string{"-o", "text"}, "deployment/shop\npod/shop-1/container/web"},
		{"none", nil, nil, nil, `[]`},
		{"rich", shop, map[string]string{RichVariable: "true"}, nil, rich},
		{"not rich", shop, map[string]string{RichVariable: "false"}, nil, list},
		{"rich and none", nil, map[string]string{RichVariable: "true"}, []string{"-n", "x"}, `{"targets":[],"current_namespace":"x","namespaces":["x"]}`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			stdout, stderr, err := execute(t, &fakeCluster{paths: test.paths}, test.env, test.args...)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want+"\n", stdout.String()); diff != "" {
				t.Errorf("output (-want +got):\n%s", diff)
			}
			if stderr.Len() > 0 {
				t.Errorf("on standard error: %s", stderr)
			}
		})
	}
}

func TestWhatIsAsked(t *testing.T) {
	tests := []struct {
		name  string
		env   map[string]string
		args  []string
		kinds []config.TargetKind
		asked bool
	}{
		{"all", nil, nil, nil, true},
		{"flags", nil, []string{"-t", "pod", "-t", "deploy"}, []config.TargetKind{config.Pod, config.Deployment}, true},
		{"variable", map[string]string{TypesVariable: `["pod","rollout","new-kind"]`}, nil, []config.TargetKind{config.Pod}, true},
		{"flag wins", map[string]string{TypesVariable: `["pod"]`}, []string{"-t", "job"}, []config.TargetKind{config.Job}, true},
		{"only what cannot be listed", map[string]string{TypesVariable: `["rollout","thing"]`}, nil, nil, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := &fakeCluster{}
			if _, _, err := execute(t, c, test.env, test.args...); err != nil {
				t.Fatal(err)
			}
			if c.asked != test.asked {
				t.Errorf("asked = %v", c.asked)
			}
			if diff := cmp.Diff(test.kinds, c.kinds); diff != "" {
				t.Errorf("kinds (-want +got):\n%s", diff)
			}
		})
	}
}

func TestClusterAndNamespace(t *testing.T) {
	c := &fakeCluster{}
	env := map[string]string{"MIRRORD_TARGET_NAMESPACE": "of-variable", "MIRRORD_KUBE_CONTEXT": "of-variable"}
	if _, _, err := execute(t, c, env, "--context", "of-flag", "--kubeconfig", "file"); err != nil {
		t.Fatal(err)
	}
	if c.namespace != "of-variable" || c.cfg.KubeContext != "of-flag" || c.cfg.Kubeconfig != "file" {
		t.Errorf("namespace %q, context %q, kubeconfig %q", c.namespace, c.cfg.KubeContext, c.cfg.Kubeconfig)
	}
	if _, _, err := execute(t, c, env, "-n", "of-flag"); err != nil || c.namespace != "of-flag" {
		t.Errorf("with -n: namespace %q, %v", c.namespace, err)
	}
}

func TestErrors(t *testing.T) {
	_, _, err := execute(t, &fakeCluster{}, nil, "-t", "thing")
	if _, usage := errors.AsType[*clierr.UsageError](err); !usage {
		t.Errorf("an unknown kind: %v", err)
	}
	if _, _, err = execute(t, &fakeCluster{}, map[string]string{TypesVariable: "pod"}); err == nil || !strings.Contains(err.Error(), TypesVariable) {
		t.Errorf("a variable that is no JSON: %v", err)
	}
	broken := errors.New("it broke")
	if _, _, err = execute(t, &fakeCluster{err: broken}, nil); !errors.Is(err, broken) {
		t.Errorf("a failure: %v", err)
	}
	stdout, stderr, err := execute(t, &fakeCluster{paths: shop, err: broken}, nil, "-o", "text")
	if err != nil || !strings.Contains(stdout.String(), "pod/shop-1") || !strings.Contains(stderr.String(), "it broke") {
		t.Errorf("a failure of some kinds: %v, %s, %s", err, stdout, stderr)
	}
}

func TestThroughTheOperator(t *testing.T) {
	one := []config.TargetPath{{Kind: config.Service, Name: "front"}}
	for _, test := range []struct {
		name    string
		env     string
		cluster fakeCluster
		want    string
		says    string
	}{
		{"used", "", fakeCluster{paths: shop, operator: one}, "service/front\n", ""},
		{"not wanted", "false", fakeCluster{paths: shop, operator: one}, "deployment/shop\npod/shop-1/container/web\n", ""},
		{"down", "", fakeCluster{paths: shop, operator: one, down: &kube.OperatorDownError{Why: "no endpoints"}}, "deployment/shop\npod/shop-1/container/web\n", "does not answer: no endpoints"},
		{"wanted", "true", fakeCluster{paths: shop}, "", "none is installed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			env := map[string]string{}
			if test.env != "" {
				env["MIRRORD_OPERATOR_ENABLE"] = test.env
			}
			stdout, stderr, err := execute(t, &test.cluster, env, "-o", "text")
			said := stderr.String()
			if err != nil {
				said += err.Error()
			}
			if stdout.String() != test.want || !strings.Contains(said, test.says) {
				t.Errorf("printed %q, said %q", stdout, said)
			}
		})
	}
}
