package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/utils/ptr"
)

// call is one run of mirrord that ends by itself.
type call struct {
	args []string
	// kubeconfig replaces the administrator's, of which the namespace is the stage's.
	kubeconfig string
	env        []string
	stdin      string
	dir        string
}

// outcome is how a call ended.
type outcome struct {
	code           int
	stdout, stderr string
}

// mirrord runs the command to its end.
func (s *stage) mirrord(t *testing.T, c call) outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	kubeconfig := c.kubeconfig
	if kubeconfig == "" {
		kubeconfig = s.kubeconfig(t, nil)
	}
	cmd := exec.CommandContext(ctx, built.mirrord, c.args...)
	cmd.Dir, cmd.Stdin = c.dir, strings.NewReader(c.stdin)
	env := []string{
		"KUBECONFIG=" + kubeconfig, "MIRRORD_AGENT_IMAGE=" + agentImage, "MIRRORD_AGENT_IMAGE_PULL_POLICY=Never",
		fmt.Sprintf("MIRRORD_AGENT_STARTUP_TIMEOUT=%d", int(patience.Seconds())), // see configFile
	}
	if slices.Contains([]string{"exec", "ls"}, c.args[0]) {
		env = append(env, "MIRRORD_OPERATOR_ENABLE=false") // another test's may be there
	}
	cmd.Env = slices.Concat(os.Environ(), env, c.env)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	o := outcome{exitCode(err), stdout.String(), stderr.String()}
	if ctx.Err() != nil {
		t.Fatalf("mirrord %s does not end\n%s%s", strings.Join(c.args, " "), o.stdout, o.stderr)
	}
	return o
}

// kubeconfig writes a variant of the administrator's kubeconfig, with the stage's namespace,
// and returns its path.
func (s *stage) kubeconfig(t *testing.T, change func(*clientcmdapi.Config, *clientcmdapi.Cluster, *clientcmdapi.AuthInfo)) string {
	t.Helper()
	raw, err := clientcmd.LoadFromFile(s.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	current := raw.Contexts[raw.CurrentContext]
	current.Namespace = s.ns
	if change != nil {
		change(raw, raw.Clusters[current.Cluster], raw.AuthInfos[current.AuthInfo])
	}
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*raw, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// refused checks that a call ended with the code and one message that says all the texts.
func (o outcome) refused(t *testing.T, code int, says ...string) {
	t.Helper()
	text, _, _ := strings.Cut(o.stderr, "apiVersion:") // lines of manifests may be alike
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	var mistakes []string
	for i, line := range lines {
		if strings.HasPrefix(line, "error: ") {
			mistakes = append(mistakes, line)
		}
		if strings.HasPrefix(line, "goroutine ") || len(line) > 20 && slices.Contains(lines[:i], line) {
			t.Errorf("this line should not be there, or not twice: %s", line)
		}
	}
	if o.code != code || len(mistakes) == 0 {
		t.Errorf("exit code %d with %d errors, want %d with one", o.code, len(mistakes), code)
	}
	for _, text := range says {
		if !strings.Contains(o.stderr, text) {
			t.Errorf("the message does not say %q", text)
		}
	}
	if t.Failed() {
		t.Logf("standard output:\n%s\nstandard error:\n%s", o.stdout, o.stderr)
	}
}

// untouched watches the stage's namespace. The function that it returns fails the test when
// since then a job was made, or an ephemeral container: when there ever was an agent.
func (s *stage) untouched(t *testing.T) (check func()) { return s.untouchedBut(t, 0) }

// untouchedBut is untouched where there have been ephemeral containers before.
func (s *stage) untouchedBut(t *testing.T, before int) (check func()) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*patience)
	jobs := s.Client.BatchV1().Jobs(s.ns)
	list, err := jobs.List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w, err := jobs.Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		defer cancel()
		defer w.Stop()
		// What was made before this job is seen before it. It never runs.
		last := "last-" + fmt.Sprint(time.Now().UnixNano())
		job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: last}, Spec: batchv1.JobSpec{
			Suspend: ptr.To(true),
			Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{
				RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "none", Image: "none"}},
			}},
		}}
		if _, err := jobs.Create(ctx, job, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		defer func() {
			_ = jobs.Delete(ctx, last, metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationBackground)})
		}()
		for seen := false; !seen; {
			select {
			case e, ok := <-w.ResultChan():
				if !ok {
					t.Fatal("the watch of jobs ended early")
				}
				if made, isJob := e.Object.(*batchv1.Job); isJob && e.Type == apiwatch.Added {
					if seen = made.Name == last; !seen {
						t.Errorf("job %s: %s", made.Name, e.Type)
					}
				}
			case <-ctx.Done():
				t.Fatal("the last job was not seen")
			}
		}
		pods, err := s.Client.CoreV1().Pods(s.ns).List(ctx, metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, pod := range pods.Items {
			if n := len(pod.Spec.EphemeralContainers); n > before {
				t.Errorf("pod %s has %d ephemeral containers, not %d", pod.Name, n, before)
			}
		}
	}
}

// file writes a file and returns its path.
func file(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestMistakesInTheConfiguration are found before anything is asked of the cluster.
func TestMistakesInTheConfiguration(t *testing.T) {
	s := newStage(t)
	check := s.untouched(t)
	for _, test := range []struct {
		name, file, text string
		flags            []string
		env              []string
		says             []string
	}{
		{name: "no JSON", file: "c.json", text: `{"target": "pod/a"`, says: []string{"c.json:1:19: this is not JSON", "bracket"}},
		{name: "no YAML", file: "c.yaml", text: "target: [\n  - x: {", says: []string{"c.yaml:2:", "this is not YAML"}},
		{name: "no TOML", file: "c.toml", text: "target = \"x\n", says: []string{"c.toml:1:", "this is not TOML"}},
		{name: "another format", file: "c.ini", text: "target = x", says: []string{".ini is not known", ".json, .yaml, .yml or .toml"}},
		{name: "no object", file: "c.json", text: `["target"]`, says: []string{"a configuration is an object, not a list"}},
		{name: "template", file: "c.json", text: `{"target": "{{ nope( }}"}`, says: []string{"c.json:1:", "in the template"}},
		{name: "no file", says: []string{"there is no configuration file", "Correct the path"}, flags: []string{"-f", "/does/not/exist.json"}},
		{
			name: "wrong types", file: "c.json",
			text: "{\n\"target\": 5,\n\"feature\": {\"network\": {\"incoming\": 7,\n\"outgoing\": {\"tcp\": \"yes\"},\n\"dns\": []}},\n\"agent\": {\"ttl\": -1}}",
			says: []string{
				"c.json:2:11: target: a target is a string or an object, not a number", "c.json:3:37: feature.network.incoming: must be",
				"c.json:4:21: feature.network.outgoing.tcp: must be true or false, not a string", "c.json:5:8: feature.network.dns: must be",
				"c.json:6:18: agent.ttl: must be a whole number from 0 to 65535, not -1",
			},
		},
		{
			name: "unknown keys", file: "c.yaml",
			text: "targt: pod/a\nfeature:\n  network:\n    incomming: steal\n    outgoing:\n      tpc: true\n",
			says: []string{
				`c.yaml:1:1: a configuration has no field "targt"; did you mean "target"?`, `c.yaml:4:5: feature.network has no field "incomming"; did you mean "incoming"?`,
				`c.yaml:6:7: feature.network.outgoing has no field "tpc"; did you mean "tcp"?`,
			},
		},
		{
			name: "ports and ignore_ports", file: "c.json", text: `{"target":"pod/a","feature":{"network":{"incoming":{"ports":[80],"ignore_ports":[81]}}}}`,
			says: []string{"ignore_ports: cannot be given together with ports", "keep ports"},
		},
		{
			name: "several HTTP filters", file: "c.json",
			text: `{"target":"pod/a","feature":{"network":{"incoming":{"mode":"steal","http_filter":{"method_filter":"GET","header_filter_jq":"."}}}}}`,
			says: []string{"there can be one filter, and there are method_filter, header_filter_jq", "all_of or any_of"},
		},
		{
			name: "empty HTTP filters", file: "c.json", text: `{"target":"pod/a","feature":{"network":{"incoming":{"http_filter":{"all_of":[]}}}}}`,
			says: []string{"http_filter.all_of: the list is empty"},
		},
		{
			name: "old and new TLS delivery", file: "c.json",
			text: `{"target":"pod/a","feature":{"network":{"incoming":{"https_delivery":{"protocol":"tls"},"tls_delivery":{"protocol":"tls"}}}}}`,
			says: []string{"https_delivery: cannot be given together with tls_delivery"},
		},
		{
			name: "filter of both sides", file: "c.json", text: `{"target":"pod/a","feature":{"network":{"outgoing":{"filter":{"local":["a"],"remote":["b"]}}}}}`,
			says: []string{"a filter is local or remote, and this one is both"},
		},
		{
			name: "entries of filters", file: "c.json", text: `{"target":"pod/a","feature":{"network":{"dns":{"filter":{"local":["a:b:c"]}}}}}`,
			says: []string{`dns.filter.local[0]: "a:b:c" is no entry of a filter`},
		},
		{
			name: "include and exclude", file: "c.json", text: `{"target":"pod/a","feature":{"env":{"include":"A*","exclude":"B"}}}`,
			says: []string{"feature.env.include: cannot be given together with exclude"},
		},
		{
			name: "pattern of env", file: "c.json", text: `{"target":"pod/a","feature":{"env":{"mapping":{"(":"x"}}}}`,
			says: []string{"is no regular expression"},
		},
		{
			name: "start-up retries", file: "c.json", text: `{"target":"pod/a","startup_retry":{"min_ms":9,"max_ms":8}}`,
			says: []string{"startup_retry.min_ms: is more than max_ms"},
		},
		{
			name: "what would send traffic elsewhere", file: "c.json",
			text: `{"target":"pod/a","feature":{"network":{"incoming":{"mode":"steal","http_filter":{"header_filter":"x: (y"}}},"copy_target":true,"split_queues":{"a":{}}}}`,
			says: []string{`http_filter.header_filter: "x: (y" is no regular expression`, "copy_target", "split_queues"},
		},
		{name: "targetless and steal", flags: []string{"--steal"}, says: []string{"traffic can only be stolen from a target, and the session has none"}},
		{name: "targetless and ephemeral", flags: []string{"-e"}, says: []string{"an ephemeral container needs a target, and the session has none"}},
		{name: "kind that is not supported", flags: []string{"-t", "rollout/shop"}, says: []string{"targets of the kind rollout are not supported yet", "name its pods"}},
		{name: "no kind", flags: []string{"-t", "shop"}, says: []string{`"shop" is no target`, `did you mean "pod/shop"?`}},
		{name: "unknown kind", flags: []string{"-t", "deploymnt/shop"}, says: []string{`did you mean "deployment/shop"?`}},
		{name: "no name", flags: []string{"-t", "deployment/"}, says: []string{`write "deployment/NAME"`}},
		{name: "too much", flags: []string{"-t", "deployment/a/b/c"}, says: []string{"there is too much after the name"}},
		{name: "namespace", flags: []string{"-t", "pod/a", "-n", "Shop"}, says: []string{`--target-namespace: target.namespace: "Shop" cannot be the name of a namespace`}},
		{name: "variable", env: []string{"MIRRORD_TCP_OUTGOING=perhaps"}, flags: []string{"-t", "pod/a"}, says: []string{"MIRRORD_TCP_OUTGOING: feature.network.outgoing.tcp: must be true or false"}},
		{name: "env file", flags: []string{"-t", "pod/a", "--env-file", "/does/not/exist"}, says: []string{"--env-file: feature.env.env_file", "no such file"}},
		{name: "nested", flags: []string{"-t", "pod/a"}, env: []string{"MIRRORD_SESSION=outer"}, says: []string{"already runs in session outer", "unset MIRRORD_SESSION"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			args := []string{"exec"}
			if test.file != "" {
				args = append(args, "-f", file(t, test.file, test.text))
			}
			args = append(append(args, test.flags...), "--", built.workload)
			// No cluster is needed to find these.
			s.mirrord(t, call{args: args, env: test.env, kubeconfig: "/does/not/exist"}).refused(t, 1, test.says...)
		})
	}
	check()
}

// TestMistakesInTheReference tries everything that is no reference to a profile.
func TestMistakesInTheReference(t *testing.T) {
	s := newStage(t)
	check := s.untouched(t)
	for ref, why := range map[string]string{
		"/": "the namespace before the slash is empty", "/a": "the namespace before the slash is empty", "a/": "the name after the slash is empty",
		"a/b/c": "it has more than one slash", "a//b": "it has more than one slash", "A": "no profile can be called", "a b": "no profile can be called",
		"-a": "no profile can be called", "a_b": "no profile can be called", "..": "no profile can be called", "x/..": "no profile can be called",
		"A/b": "no namespace can be called", "a.b/c": "no namespace can be called", strings.Repeat("a", 254): "must be no more than 253",
		strings.Repeat("n", 64) + "/a": "must be no more than 63",
	} {
		t.Run(ref[:min(len(ref), 20)], func(t *testing.T) {
			config := file(t, "c.json", fmt.Sprintf(`{"target": "pod/a", "profile": %q}`, ref))
			says := []string{"is no reference to a profile", why, `"name"`, `"namespace/name"`}
			s.mirrord(t, call{args: []string{"exec", "-f", config, "--", "true"}}).refused(t, 1, append(says, "c.json:1:32: profile:")...)
			s.mirrord(t, call{args: []string{"exec", "--profile", ref, "-t", "pod/a", "--", "true"}}).refused(t, 1, append(says, "--profile: profile:")...)
			s.mirrord(t, call{args: []string{"profile", "show", "--", ref}}).refused(t, 1, says...)
			s.mirrord(t, call{args: []string{"profile", "explain", "--", ref}}).refused(t, 1, says...)
		})
	}
	for _, value := range []string{`""`, `5`, `["a"]`, `{}`} {
		t.Run(value, func(t *testing.T) {
			config := file(t, "c.json", `{"target": "pod/a", "profile": `+value+`}`)
			s.mirrord(t, call{args: []string{"exec", "-f", config, "--", "true"}}).refused(t, 1, "c.json:1:32: profile: ")
		})
	}
	check()
}

// TestMistakesOnTheCommandLine end with the exit codes of shells.
func TestMistakesOnTheCommandLine(t *testing.T) {
	s := newStage(t)
	check := s.untouched(t)
	notExecutable := file(t, "program", "#!/bin/sh\n")
	for _, test := range []struct {
		args string
		code int
		says string
	}{
		{"exec", 2, "there is no command to run"},
		{"exec --", 2, "there is no command to run"},
		{"exec --no-such-flag -- true", 2, "unknown flag: --no-such-flag"},
		{"exec -t", 2, "flag needs an argument"},
		{"exec --progress loud -- true", 2, "must be auto, plain, json"},
		{"exce -- true", 2, "did you mean exec?"},
		{"profile shw", 2, "did you mean show?"},
		{"verify-config", 2, "needs FILE"},
		{"ls pods", 2, ""},
		{"exec -t pod/a -- no-such-program", 127, "no-such-program: command not found"},
		{"exec -t pod/a -- ./no/such/program", 127, "command not found"},
		{"exec -t pod/a -- /etc", 126, "is a directory"},
		{"exec -t pod/a -- " + notExecutable, 126, "permission denied"},
	} {
		t.Run(test.args, func(t *testing.T) {
			o := s.mirrord(t, call{args: strings.Fields(test.args)})
			o.refused(t, test.code, test.says)
			if test.code == 2 && !strings.Contains(o.stderr, "--help\"") {
				t.Errorf("it does not say where the help is: %s", o.stderr)
			}
		})
	}
	check()
}
