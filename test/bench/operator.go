package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const operatorImage = "test.mirrord.local/mirrord-operator:bench"

// installOperator installs the operator of this checkout, whose programs are in dir, until the end of the
// run. It has one replica: two on one machine only share it.
func (s *stage) installOperator(dir string) {
	s.t.Logf("installing the operator")
	mirrord := filepath.Join(dir, "mirrord")
	if code, out := s.command(mirrord, "operator", "status"); code == 0 {
		s.t.Fatalf("an operator is installed in this cluster, and the benchmark installs its own; -operator=false goes without:\n%s", out)
	}
	s.env.LoadImage(s.t, operatorImage, []string{"/mirrord-operator"}, map[string]string{"/mirrord-operator": filepath.Join(dir, "mirrord-operator")})
	s.t.Cleanup(func() {
		if code, out := s.command(mirrord, "operator", "uninstall"); code != 0 {
			s.t.Errorf("uninstalling the operator:\n%s", out)
		}
	})
	code, out := s.command(mirrord, "operator", "install", "--image", operatorImage, "--agent-image", s.builds[0].image, "--set", "operator.replicas=1", "--max-sessions-per-user", "0", "--timeout", "2m")
	if code != 0 {
		s.t.Fatalf("installing the operator:\n%s", out)
	}
	s.builds = append(s.builds, build{name: viaOperator, mirrord: mirrord, operator: true})
}

func (s *stage) command(args ...string) (code int, output string) {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+s.env.Kubeconfig)
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		s.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

// removeAgents removes the operator's agents, and waits until they are gone.
func (s *stage) removeAgents() {
	pods := s.env.Client.CoreV1().Pods("mirrord")
	now := int64(0)
	list := metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=mirrord-agent"}
	if err := pods.DeleteCollection(s.t.ctx, metav1.DeleteOptions{GracePeriodSeconds: &now}, list); err != nil && !apierrors.IsNotFound(err) {
		s.t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); ; {
		l, err := pods.List(s.t.ctx, list)
		switch {
		case err != nil:
			s.t.Fatal(err)
		case len(l.Items) == 0:
			return
		case time.Now().After(deadline):
			s.t.Fatalf("the operator's agents do not go")
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-s.t.ctx.Done():
			s.t.Fatalf("interrupted")
		}
	}
}
