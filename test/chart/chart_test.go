// Package chart holds what "mirrord operator manifests" makes of the chart against what Helm makes of
// it. It is a module of its own, so that Helm is a part of this test and of nothing else.
package chart

import (
	"bytes"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	"sigs.k8s.io/yaml"
)

const root = "../.."

// settings are files of values, by their name.
var settings = map[string]string{
	"usual": `image: {registry: registry.example.com/x}`,
	"much": `
namespace: tools
image: {registry: registry.example.com/x, tag: v1.2.3, pullPolicy: Always, pullSecrets: [one, two]}
roleNamespaces: [shop, billing]
operator:
  replicas: 3
  maxSessionsPerUser: 0
  port: 9443
  resources: {limits: {cpu: "1", memory: 1Gi}}
  priorityClassName: system-cluster-critical
  nodeSelector: {pool: tools}
  tolerations: [{key: tools, operator: Exists}]
  affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: In, values: [b]}]}]}}}
  podLabels: {team: platform}
  podAnnotations: {note: 'with "quotes" and: a colon'}
  extraArgs: ["--agent-memory-limit=1Gi"]
sa: {annotations: {example.com/role: "arn:x"}}
agent: {priorityClass: {value: 1000000000}}
`,
	"bare": `
createNamespace: false
crds: {install: false}
operator: {image: registry.example.com/operator:1, replicas: 1, resources: null}
agent: {image: registry.example.com/agent:1, priorityClass: {create: false, name: ""}}
userRoles: {create: false}
networkPolicy: {enabled: false}
`,
	"cert-manager":           `{image: {registry: r.example.com}, tls: {certManager: {enabled: true}}}`,
	"cert-manager's own":     `{image: {registry: r.example.com}, tls: {certManager: {enabled: true, issuerRef: {name: corporate, kind: ClusterIssuer}}}}`,
	"a certificate as given": `{image: {registry: r.example.com}, tls: {secret: mine, caBundle: "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"}}`,
	"memory without a limit": `{image: {registry: r.example.com}, operator: {resources: {limits: null}}}`,
}

// TestHelmMakesTheSame compares object by object.
func TestHelmMakesTheSame(t *testing.T) {
	program := filepath.Join(t.TempDir(), "mirrord")
	build := exec.Command("go", "build", "-o", program, "./cmd/mirrord")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	out, err := exec.Command(program, "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	version := strings.TrimSpace(strings.TrimPrefix(string(out), "mirrord "))
	for name, values := range settings {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "values.yaml")
			if err := os.WriteFile(file, []byte(values), 0o600); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(program, "operator", "manifests", "--values", file)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("%v: %s", err, stderr.Bytes())
			}
			ours := objects(t, string(out))
			helms := helm(t, values, version)
			if diff := cmp.Diff(slices.Sorted(maps.Keys(helms)), slices.Sorted(maps.Keys(ours))); diff != "" {
				t.Errorf("objects (-Helm's +ours):\n%s", diff)
			}
			for name, object := range ours {
				if diff := cmp.Diff(helms[name], object); diff != "" {
					t.Errorf("%s (-Helm's +ours):\n%s", name, diff)
				}
			}
		})
	}
}

// TestHelmRefusesTheSame: the schema is read by two programs.
func TestHelmRefusesTheSame(t *testing.T) {
	for _, values := range []string{
		`{}`, `{image: {registry: r}, operator: {replicas: 0}}`, `{image: {registry: r}, colour: red}`,
		`{image: {registry: r}, operator: {logLevel: loud}}`, `{image: {registry: r}, namespace: Shop}`,
		`{image: {registry: r}, operator: {maxSessionTime: never}}`, `{image: {registry: r}, operator: {maxSessionsPerUser: -1}}`, `{image: {registry: r/}}`,
	} {
		if _, err := tryHelm(t, values, "v1"); err == nil {
			t.Errorf("Helm takes %s", values)
		}
		cmd := exec.Command("go", "run", "./cmd/mirrord", "operator", "manifests", "--values", "/dev/stdin")
		cmd.Dir, cmd.Stdin = root, strings.NewReader(values)
		if err := cmd.Run(); err == nil {
			t.Errorf("we take %s", values)
		}
	}
}

func helm(t *testing.T, values, version string) map[string]map[string]any {
	t.Helper()
	files, err := tryHelm(t, values, version)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]map[string]any{}
	for name, text := range files {
		if strings.HasSuffix(name, ".yaml") {
			maps.Copy(all, objects(t, text))
		}
	}
	return all
}

func tryHelm(t *testing.T, values, version string) (map[string]string, error) {
	t.Helper()
	chart, err := loader.LoadDir(filepath.Join(root, "charts", "mirrord-operator"))
	if err != nil {
		t.Fatal(err)
	}
	if err := chart.Validate(); err != nil {
		t.Fatal(err)
	}
	chart.Metadata.AppVersion = version
	parsed, err := common.ReadValues([]byte(values))
	if err != nil {
		t.Fatal(err)
	}
	release := common.ReleaseOptions{Name: "mirrord", Namespace: "default", Revision: 1, IsInstall: true}
	render, err := util.ToRenderValues(chart, parsed, release, common.DefaultCapabilities)
	if err != nil {
		return nil, err
	}
	return engine.Render(chart, render)
}

// objects reads documents, without what says who installed them.
func objects(t *testing.T, text string) map[string]map[string]any {
	t.Helper()
	all := map[string]map[string]any{}
	for document := range strings.SplitSeq("\n"+text, "\n---\n") {
		var object map[string]any
		if err := yaml.UnmarshalStrict([]byte(document), &object); err != nil {
			t.Fatalf("%v\n%s", err, document)
		}
		if object == nil {
			continue
		}
		metadata := object["metadata"].(map[string]any)
		delete(metadata["labels"].(map[string]any), "app.kubernetes.io/managed-by")
		namespace, _ := metadata["namespace"].(string)
		name := object["kind"].(string) + " " + namespace + "/" + metadata["name"].(string)
		if all[name] != nil {
			t.Errorf("%s is there twice", name)
		}
		all[name] = object
	}
	return all
}
