package e2e

import (
	"fmt"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"

	sessions "github.com/mirrord-go/mirrord/api/sessions/v1alpha"
	"github.com/mirrord-go/mirrord/test/clustertest"
)

// TestOperatorExec is what a developer sees who has no right but to use the operator.
func TestOperatorExec(t *testing.T) {
	i := withoutOperator(t)
	s := &stage{Env: i.env, ns: i.env.Namespace(t)}
	s.deploy(t, twoShops()+"---"+db+"---"+client, "deployment/shop", "pod/db", "pod/client")
	group := []string{sessions.GroupName}
	alice := s.User(t, "alice-"+s.ns, clustertest.Grant{Namespace: s.ns, Rules: []rbacv1.PolicyRule{
		{APIGroups: group, Resources: []string{"targets"}, Verbs: []string{"get", "list"}},
		{APIGroups: group, Resources: []string{"sessions"}, Verbs: []string{"create", "get", "list", "watch", "delete"}},
		{APIGroups: group, Resources: []string{"sessions/connect"}, Verbs: []string{"get", "create"}},
	}})
	bob := s.User(t, "bob-"+s.ns)

	t.Run("none is installed", func(t *testing.T) {
		se := s.start(t, run{config: object{"operator": true}, kubeconfig: alice, command: []string{"true"}})
		if code := se.wait(); code != 1 || !strings.Contains(se.stderr(), "none is installed in the cluster") {
			t.Errorf("exit code %d", code)
		}
	})
	i.mustInstall("--replicas", "2")
	t.Run("goes on", func(t *testing.T) {
		w := &whole{stage: s, port: freePort(t)}
		w.session = s.start(t, run{
			config: object{
				"operator": nil,
				"feature":  object{"network": object{"incoming": object{"mode": "steal", "port_mapping": [][]uint16{{w.port, 8080}}}}},
			},
			kubeconfig: alice, command: w.command(), stdin: true,
		})
		w.goesOn(t)
		name := w.session.summary().Operator
		eventually(t, func() error { // each replica learns by itself of it
			_, err := s.Kubectl(t, s.Kubeconfig, nil, "get", "sessions."+sessions.GroupName, "-n", s.ns, name)
			return err
		})
		w.session.stop()
		for _, p := range w.pods(t) {
			answeredBy(t, "afterwards", p.Name, s.ask(t, url(p.Status.PodIP, 8080)))
		}
		eventually(t, func() error {
			out, err := s.Kubectl(t, s.Kubeconfig, nil, "get", "sessions."+sessions.GroupName, "-n", s.ns, "-o", "name")
			if err != nil || strings.TrimSpace(out) != "" {
				return fmt.Errorf("sessions remain: %s, %w", out, err)
			}
			return nil
		})
		w.scale(t, 2)
		s.WaitReady(t, s.ns, "deployment/shop")
	})
	t.Run("ended by somebody", func(t *testing.T) {
		se := s.start(t, run{config: object{"operator": true}, kubeconfig: alice, command: []string{"sleep", "600"}})
		se.started()
		eventually(t, func() error {
			_, err := s.Kubectl(t, s.Kubeconfig, nil, "delete", "sessions."+sessions.GroupName, "-n", s.ns, se.summary().Operator)
			return err
		})
		if code := se.wait(); code != 1 || !strings.Contains(se.stderr(), "the session was ended by ") {
			t.Errorf("exit code %d", code)
		}
	})
	t.Run("killed", func(t *testing.T) {
		se := s.start(t, run{config: object{"operator": true}, kubeconfig: alice, command: []string{"sleep", "600"}})
		se.started()
		name := se.summary().Operator
		must(t, se.cmd.Process.Kill())
		se.wait()
		eventually(t, func() error { // much earlier than the grace period ends
			out, err := s.Kubectl(t, s.Kubeconfig, nil, "get", "sessions."+sessions.GroupName, "-n", s.ns, "-o", "name")
			if err != nil || strings.TrimSpace(out) != "" {
				return fmt.Errorf("session %s of a killed client remains: %s, %w", name, out, err)
			}
			return nil
		})
	})
	t.Run("refused by a policy", func(t *testing.T) {
		s.Apply(t, s.ns, `{apiVersion: policies.mirrord.metalbear.co/v1alpha, kind: MirrordPolicy, metadata: {name: no-steal}, spec: {block: [steal]}}`)
		eventually(t, func() error { // until the operator has read it
			se := s.start(t, run{
				config:     object{"operator": true, "feature": object{"network": object{"incoming": "steal"}}},
				kubeconfig: alice, command: []string{"true"},
			})
			if se.wait() != 1 {
				return fmt.Errorf("the session was allowed")
			}
			for _, want := range []string{"the cluster's policies do not allow it", s.ns + "/no-steal"} {
				if !strings.Contains(se.stderr(), want) {
					return fmt.Errorf("%q is not said:\n%s", want, se.stderr())
				}
			}
			return nil
		})
	})
	t.Run("no rights", func(t *testing.T) {
		se := s.start(t, run{config: object{"operator": nil}, kubeconfig: bob, command: []string{"true"}})
		if code := se.wait(); code != 1 || !strings.Contains(se.stderr(), "does not let you create sessions."+sessions.GroupName) {
			t.Errorf("exit code %d", code)
		}
	})
	t.Run("targets", func(t *testing.T) {
		o := s.mirrord(t, call{args: []string{"ls", "-o", "text"}, env: []string{"MIRRORD_OPERATOR_ENABLE=true"}, kubeconfig: alice})
		if o.code != 0 || !strings.Contains(o.stdout, "deployment/shop\n") || !strings.Contains(o.stdout, "pod/db\n") {
			t.Errorf("exit code %d, listed:\n%s%s", o.code, o.stdout, o.stderr)
		}
	})
}
