package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mirrord-go/mirrord/internal/kube"
)

// TestOperatorUninstallEndsSessions: the user of a session is told, the target gets its traffic back, and no agent
// stays.
func TestOperatorUninstallEndsSessions(t *testing.T) {
	i := withoutOperator(t)
	s := &stage{Env: i.env, ns: i.env.Namespace(t)}
	s.deploy(t, shop+"---"+client, "deployment/shop", "pod/client")
	before := i.inventory()
	i.mustInstall()
	pod := s.Pods(t, s.ns, "app=shop")[0]

	port := freePort(t)
	se := s.start(t, run{
		config: object{
			"operator": true,
			"feature":  object{"network": object{"incoming": object{"mode": "steal", "port_mapping": [][]uint16{{port, 8080}}}}},
		},
		command: []string{built.workload, "serve", "-http", fmt.Sprintf("127.0.0.1:%d", port), "-name", "laptop"},
	})
	se.subscribed(8080)
	i.checkSession(s.ns)

	code, stdout, stderr := i.mirrord("operator", "uninstall", "--timeout", (2 * patience).String())
	if code != 0 {
		t.Fatalf("exit code %d\n%s%s", code, stdout, stderr)
	}
	if se.wait(); !strings.Contains(se.stderr(), "the session was ended by ") {
		t.Error("the user is not told why the session has ended")
	}
	answeredBy(t, "afterwards", pod.Name, s.ask(t, url(pod.Status.PodIP, 8080)))
	left, err := s.Client.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{LabelSelector: kube.AgentSelector})
	if err != nil {
		t.Fatal(err)
	}
	if len(left.Items) > 0 {
		t.Errorf("%d agents are left, the first is %s", len(left.Items), left.Items[0].Name)
	}
	i.asBefore(before)
}

// checkSession looks for the one session, and its agent, in the status.
func (i *installation) checkSession(namespace string) {
	i.Helper()
	eventually(i.T, func() error { // each replica learns by itself of sessions
		_, stdout, _ := i.mirrord("operator", "status", "-o", "json")
		var status kube.OperatorStatus
		if err := json.Unmarshal([]byte(stdout), &status); err != nil {
			return fmt.Errorf("%w\n%s", err, stdout)
		}
		if len(status.Sessions) != 1 || status.Sessions[0].Namespace != namespace || len(status.Agents) != 1 || !status.Agents[0].Ready {
			return fmt.Errorf("the status is %s", stdout)
		}
		code, stdout, stderr := i.mirrord("operator", "status")
		if code != 0 || !strings.Contains(stdout, "deployment/shop") || !strings.Contains(stdout, "steal") {
			return fmt.Errorf("exit code %d\n%s%s", code, stdout, stderr)
		}
		return nil
	})
}
