package e2e

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/mirrord-go/mirrord/test/clustertest"
)

// tellsNothing checks that a call's output has nothing of the kubeconfig's credentials.
func (o outcome) tellsNothing(t *testing.T, kubeconfig string) {
	t.Helper()
	secrets := []string{"PRIVATE KEY", "secret-"}
	if raw, err := clientcmd.LoadFromFile(kubeconfig); err == nil {
		for _, u := range raw.AuthInfos {
			secrets = append(secrets, u.Token, string(u.ClientKeyData), base64.StdEncoding.EncodeToString(u.ClientKeyData))
		}
	}
	for _, secret := range secrets {
		if len(secret) > 0 && strings.Contains(o.stdout+o.stderr, secret) {
			t.Errorf("the output has a secret of the kubeconfig, %.12s…:\n%s%s", secret, o.stdout, o.stderr)
		}
	}
}

// TestSecretsStaySecret runs a session that talks as much as it can, with secrets everywhere:
// in the kubeconfig, in the target's environment, in the configuration. They reach the
// process, and nothing that the session writes, anywhere.
func TestSecretsStaySecret(t *testing.T) {
	s := newStage(t)
	s.Apply(t, s.ns, `
apiVersion: v1
kind: ServiceAccount
metadata: {name: robot}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: robot}
rules: [{apiGroups: ["*"], resources: ["*"], verbs: ["*"]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: robot}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: robot}
subjects: [{kind: ServiceAccount, name: robot}]
---
apiVersion: v1
kind: Pod
metadata: {name: vault}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: vault
    image: `+clustertest.WorkloadImage+`
    imagePullPolicy: Never
    args: [sleep]
    env: [{name: TARGETS, value: secret-of-the-target}]
`)
	s.WaitReady(t, s.ns, "pod/vault")
	answer, err := s.Client.CoreV1().ServiceAccounts(s.ns).CreateToken(t.Context(), "robot", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	token := answer.Status.Token
	kubeconfig := s.kubeconfig(t, func(_ *clientcmdapi.Config, _ *clientcmdapi.Cluster, u *clientcmdapi.AuthInfo) {
		*u = clientcmdapi.AuthInfo{Token: token}
	})
	for _, ephemeral := range []bool{false, true} {
		t.Run(fmt.Sprintf("ephemeral %v", ephemeral), func(t *testing.T) {
			se := s.start(t, run{
				config: object{
					"target": object{"path": "pod/vault", "namespace": s.ns},
					"agent":  object{"log_level": "trace", "ephemeral": ephemeral},
					"feature": object{"env": object{
						"override": object{"OVERRIDDEN": "secret-of-the-config"}, "env_file": file(t, "env", "FILED=secret-of-the-file\n"),
					}},
				},
				flags:      []string{"--verbose"},
				env:        []string{"LOCALS=secret-of-this-machine"},
				kubeconfig: kubeconfig,
				command:    []string{"sh", "-c", "env; echo done; cat"},
				stdin:      true,
			})
			se.started()
			eventually(t, func() error {
				if !strings.Contains(se.out.String(), "done\n") {
					return fmt.Errorf("the process has not written its environment")
				}
				return nil
			})
			for _, secret := range []string{"TARGETS=secret-of-the-target", "OVERRIDDEN=secret-of-the-config", "FILED=secret-of-the-file", "LOCALS=secret-of-this-machine"} {
				if !strings.Contains(se.out.String(), secret) {
					t.Errorf("the process does not have %s", secret)
				}
			}
			written := s.written(t)
			se.stop()
			written["standard error"] = se.stderr()
			for where, text := range written {
				for _, secret := range []string{"secret-of-the-config", "secret-of-the-file", "secret-of-this-machine", token, "PRIVATE KEY"} {
					if strings.Contains(text, secret) {
						t.Errorf("%s has %.20s…:\n%s", where, secret, text)
					}
				}
				// The target's own specification has its variables.
				if where != "pod vault" && strings.Contains(text, "secret-of-the-target") {
					t.Errorf("%s has a variable of the target:\n%s", where, text)
				}
			}
			if !strings.Contains(written["standard error"], "level=DEBUG") {
				t.Error("the session did not talk")
			}
		})
	}
}

// written is what there is to read of the stage's sessions: the objects of the namespace, the
// logs of its pods, the command lines of the programs on this machine.
func (s *stage) written(t *testing.T) map[string]string {
	t.Helper()
	written := map[string]string{}
	note := func(where string, v any) {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		written[where] = string(b)
	}
	jobs, err := s.Client.BatchV1().Jobs(s.ns).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pods, err := s.Client.CoreV1().Pods(s.ns).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	events, err := s.Client.CoreV1().Events(s.ns).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	note("the jobs", jobs)
	note("the events", events)
	agents := 0
	for _, pod := range pods.Items {
		note("pod "+pod.Name, pod)
		containers := []string{}
		for _, c := range pod.Spec.Containers {
			containers = append(containers, c.Name)
		}
		for _, c := range pod.Spec.EphemeralContainers {
			containers = append(containers, c.Name)
		}
		for _, c := range containers {
			log, err := s.Client.CoreV1().Pods(s.ns).GetLogs(pod.Name, &corev1.PodLogOptions{Container: c}).DoRaw(t.Context())
			if err != nil {
				// The agent of a session before may be going.
				if now, e := s.Client.CoreV1().Pods(s.ns).Get(t.Context(), pod.Name, metav1.GetOptions{}); apierrors.IsNotFound(e) || e == nil && now.DeletionTimestamp != nil {
					continue
				}
				t.Fatal(err)
			}
			written["the log of "+pod.Name+"/"+c] = string(log)
			if strings.Contains(string(log), "mirrordAgent") {
				agents++
			}
		}
	}
	if agents == 0 {
		t.Error("there is no agent")
	}
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range processes {
		b, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(b), "mirrord") {
			written[path] = strings.ReplaceAll(string(b), "\x00", " ")
		}
	}
	return written
}
