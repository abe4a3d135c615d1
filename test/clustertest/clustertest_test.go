package clustertest_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mirrord-go/mirrord/test/clustertest"
)

const echo = `
# a comment alone is no object
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: echo}
spec:
  selector: {matchLabels: {app: echo}}
  template:
    metadata: {labels: {app: echo}}
    spec:
      containers:
      - name: echo
        image: ` + clustertest.WorkloadImage + `
        imagePullPolicy: Never
        args: [serve, -admin, ":8079", -grpc, ":9090"]
        readinessProbe: {grpc: {port: 9090}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: echo}
spec: {ipFamilyPolicy: PreferDualStack, selector: {app: echo}, ports: [{port: 80, targetPort: 8080}]}
`

// answer is the part of the workload's output that the tests look at.
type answer struct {
	Status int
	Echo   struct{ Name, Peer string }
}

func TestPodsServeEachOther(t *testing.T) {
	t.Parallel()
	env := clustertest.New(t)
	env.LoadWorkload(t)
	ns := env.Namespace(t)
	env.Apply(t, ns, echo)
	env.WaitReady(t, ns, "deployment/echo")
	server := env.Pods(t, ns, "app=echo")[0]

	ran := env.Run(t, ns, clustertest.WorkloadImage, "get", "http://echo/")
	var a answer
	if err := json.Unmarshal([]byte(ran.Stdout), &a); err != nil || ran.Code != 0 || a.Status != 200 || a.Echo.Name != server.Name {
		t.Errorf("get in a pod: %+v, %v", ran, err)
	}
	for _, ip := range server.Status.PodIPs {
		host := ip.IP
		if strings.Contains(host, ":") {
			host = "[" + host + "]"
		}
		res, err := http.Get("http://" + host + ":8079/count")
		if err != nil {
			t.Errorf("the pod cannot be reached from the machine: %v", err)
			continue
		}
		res.Body.Close()
	}
	if log := env.Logs(t, ns, server.Name, ""); !strings.Contains(log, server.Name) {
		t.Errorf("log: %q", log)
	}
}

func TestExec(t *testing.T) {
	t.Parallel()
	env := clustertest.New(t)
	env.LoadWorkload(t)
	ns := env.Namespace(t)
	env.Apply(t, ns, echo)
	env.WaitReady(t, ns, "deployment/echo")
	pod := env.Pods(t, ns, "app=echo")[0].Name
	if r := env.Exec(t, ns, pod, "", "/bin/workload", "dns", "no.such.name"); r.Code != 1 || !strings.Contains(r.Stdout, `"absent":true`) || r.Stderr == "" {
		t.Errorf("failing program: %+v", r)
	}
	input := strings.NewReader("hello")
	r := env.ExecInput(t, input, ns, pod, "echo", "/bin/workload", "get", "-method", "POST", "-body-file", "/dev/stdin", "http://echo/")
	if r.Code != 0 || !strings.Contains(r.Stdout, `"size":5`) {
		t.Errorf("standard input: %+v", r)
	}
}

func TestUserMayDoWhatIsGranted(t *testing.T) {
	t.Parallel()
	env := clustertest.New(t)
	ns := env.Namespace(t)
	user := env.User(t, "reader-"+ns, clustertest.Grant{Namespace: ns, Rules: []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"list"}}}})
	if out, err := env.Kubectl(t, user, nil, "get", "pods"); err != nil {
		t.Errorf("granted: %v %s", err, out)
	}
	if _, err := env.Kubectl(t, user, nil, "get", "secrets"); err == nil || !strings.Contains(err.Error(), `User "reader-`+ns+`" cannot list resource "secrets"`) {
		t.Errorf("not granted: %v", err)
	}
	if _, err := env.Kubectl(t, user, nil, "get", "pods", "--namespace=default"); err == nil {
		t.Error("the grant holds in another namespace")
	}
}

func TestRestrictedNamespaceRefusesPrivilege(t *testing.T) {
	t.Parallel()
	env := clustertest.New(t)
	env.LoadWorkload(t)
	ns := env.Namespace(t, "pod-security.kubernetes.io/enforce=restricted")
	err := env.TryApply(t, ns, `{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"hostPID": true, "containers": [{"name": "c", "image": "x"}]}}`)
	if !apierrors.IsForbidden(err) {
		t.Errorf("a pod that is not restricted: %v", err)
	}
	if r := env.Run(t, ns, clustertest.WorkloadImage, "dns", "kubernetes.default.svc.cluster.local"); r.Code != 0 {
		t.Errorf("Run in a restricted namespace: %+v", r)
	}
}

func TestApplyRemovesWhatIsOutside(t *testing.T) {
	t.Parallel()
	env := clustertest.New(t)
	ns := env.Namespace(t)
	name := "clustertest-" + ns
	t.Run("inner", func(t *testing.T) {
		env.Apply(t, ns, "{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: "+name+"}}")
		if _, err := env.Client.RbacV1().ClusterRoles().Get(t.Context(), name, metav1.GetOptions{}); err != nil {
			t.Error(err)
		}
	})
	if _, err := env.Client.RbacV1().ClusterRoles().Get(t.Context(), name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("after the test: %v", err)
	}
}
