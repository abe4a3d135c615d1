package e2e

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	sessions "github.com/mirrord-go/mirrord/api/sessions/v1alpha"
	"github.com/mirrord-go/mirrord/internal/tunnel"
)

// TestOperatorSessions is what the operator's API does, on a real cluster and with users of
// different rights.
func TestOperatorSessions(t *testing.T) {
	i := withoutOperator(t)
	s := &operatorStage{i, i.env.Namespace(t)}
	i.env.Apply(t, s.ns, shop)
	i.env.WaitReady(t, s.ns, "deployment/shop")
	i.mustInstall("--replicas", "2", "--set", "agent.idleTimeout=5s")
	alice := s.user(t, "alice", "deployment.shop", "targetless")
	bob := s.user(t, "bob")

	t.Run("a session follows its target and ends by a user", func(t *testing.T) { s.testLife(t, alice.as(t), bob.as(t)) })
	t.Run("rights", func(t *testing.T) { s.testRights(t, alice.as(t), bob.as(t)) })
	t.Run("policies", func(t *testing.T) { s.testPolicies(t, alice.as(t)) })
	t.Run("profiles", func(t *testing.T) { s.testProfiles(t, alice.as(t)) })
	t.Run("an agent that is gone is replaced", func(t *testing.T) { s.testAgentGone(t, alice.as(t)) })
	t.Run("nonsense", func(t *testing.T) { s.testNonsense(t, alice.as(t)) })
	t.Run("nobody but the front proxy is believed", func(t *testing.T) { s.testForged(t) })
	t.Run("kubectl", func(t *testing.T) { s.testKubectl(t, alice.as(t)) })
	t.Run("replicas come and go", func(t *testing.T) { s.testReplicas(t, alice.as(t)) })
	t.Run("agents that nobody needs go", func(t *testing.T) {
		eventually(t, func() error {
			if pods := s.agents(t); len(pods) > 0 {
				return fmt.Errorf("%d agents are left, the first is %s", len(pods), pods[0].Name)
			}
			return nil
		})
	})
}

func (s *operatorStage) testLife(t *testing.T, alice, bob *sessionUser) {
	if pods := s.agents(t); len(pods) > 0 {
		t.Fatalf("there is an agent before there is a session: %s", pods[0].Name)
	}
	made := alice.createSoon(spec(t, "deployment/shop"), func(made *sessions.Session) error {
		if made.Status.User != alice.name || made.Status.Phase != sessions.SessionActive || len(made.Status.Attachments) != 1 {
			return fmt.Errorf("the new session: %+v", made.Status)
		}
		return nil
	})
	ends := alice.watchEnd(made)
	first := made.Status.Attachments[0]
	if code, err := alice.connect(made.Name, first.Name); code != http.StatusSwitchingProtocols {
		t.Errorf("connecting: %d, %v", code, err)
	}
	if code, err := bob.connect(made.Name, first.Name); code != http.StatusForbidden {
		t.Errorf("somebody else connects: %d, %v", code, err)
	}
	if code, err := alice.connect(made.Name, "nothing"); code != http.StatusNotFound {
		t.Errorf("connecting to no attachment: %d, %v", code, err)
	}

	s.scale(t, 2)
	if two := alice.attached(made.Name, 2); two.Status.Attachments[0] != first {
		t.Errorf("the first attachment changed: %+v, was %+v", two.Status.Attachments[0], first)
	}
	s.scale(t, 0)
	alice.attached(made.Name, 0)
	s.scale(t, 1)
	again := alice.attached(made.Name, 1)
	if again.Status.Attachments[0].Name == first.Name {
		t.Errorf("the attachment is that of a pod that is gone: %+v", again.Status.Attachments[0])
	}

	if err := bob.end(made.Name); err != nil {
		t.Fatal(err)
	}
	if e := alice.ended(ends); e.By != bob.name || e.Reason != "Deleted" {
		t.Errorf("the end: %+v", e)
	}
	if code, _ := alice.connect(made.Name, again.Status.Attachments[0].Name); code != http.StatusGone && code != http.StatusNotFound {
		t.Errorf("connecting to a session that has ended: %d", code)
	}
	eventually(t, func() error {
		_, err := alice.get(made.Name)
		switch {
		case apierrors.IsNotFound(err):
			return nil
		case err != nil:
			return fmt.Errorf("asking for the session: %w", err)
		}
		return errors.New("the session is still there")
	})
	if none := alice.mustCreate("targetless"); len(none.Status.Attachments) != 1 || none.Status.Attachments[0].Name != "targetless" {
		t.Errorf("without a target: %+v", none.Status)
	} else {
		alice.mustEnd(none.Name)
	}
}

func (s *operatorStage) testRights(t *testing.T, alice, bob *sessionUser) {
	pod := s.env.Pods(t, s.ns, "app=shop")[0].Name
	alice.mustEnd(alice.mustCreate("pod/" + pod).Name) // of a deployment that the user may attach to
	for _, test := range []struct {
		who    *sessionUser
		target string
	}{{alice, "service/shop"}, {alice, "label/app=shop"}, {alice, "deployment/other"}, {bob, "deployment/shop"}, {bob, "targetless"}} {
		test.who.refusedSoon(spec(t, test.target), func(err error) error {
			if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "targets."+sessions.GroupName) {
				return fmt.Errorf("%s attaches to %s: %w", test.who.name, test.target, err)
			}
			return nil
		})
	}
	stranger := &sessionUser{t: t, name: "stranger", ns: "default", config: bob.config, client: bob.client}
	if _, err := stranger.create(spec(t, "deployment/shop")); !apierrors.IsForbidden(err) {
		t.Errorf("in a namespace without rights: %v", err)
	}
}

const noSteal = `
apiVersion: policies.mirrord.metalbear.co/v1alpha
kind: MirrordPolicy
metadata: {name: no-steal}
spec:
  targetPath: deployment/shop
  block: [steal]
`

func (s *operatorStage) testPolicies(t *testing.T, alice *sessionUser) {
	running := alice.mustCreate("deployment/shop")
	ends := alice.watchEnd(running)
	s.env.Apply(t, s.ns, noSteal)
	if e := alice.ended(ends); e.By != "operator" || e.Reason != "PolicyChanged" || !strings.Contains(e.Text, "no-steal") {
		t.Errorf("the end of a session that a new policy forbids: %+v", e)
	}
	pod := s.env.Pods(t, s.ns, "app=shop")[0].Name
	for _, target := range []string{"deployment/shop", "pod/" + pod, "deployment/shop/container/shop"} {
		alice.refusedSoon(spec(t, target), func(err error) error {
			var status apierrors.APIStatus
			if !apierrors.IsForbidden(err) || !errors.As(err, &status) {
				return fmt.Errorf("%s, which a policy forbids: %w", target, err)
			}
			d := status.Status().Details
			if d == nil || len(d.Causes) != 1 || d.Causes[0].Type != "Blocked" || d.Causes[0].Field != s.ns+"/no-steal: block: steal" ||
				!strings.Contains(d.Causes[0].Message, "\n") {
				return fmt.Errorf("the refusal of %s: %+v", target, d)
			}
			return nil
		})
	}
	mirror := spec(t, "deployment/shop")
	mirror.Features.Incoming.Mode = "mirror"
	allowed := alice.createSoon(mirror, func(made *sessions.Session) error {
		if !slices.Contains(made.Status.Policies, s.ns+"/no-steal") {
			return fmt.Errorf("the policies that bind the session: %q", made.Status.Policies)
		}
		return nil
	})
	// Stricter, and still allowed: the grant changes while the session runs.
	s.env.Apply(t, s.ns, noSteal+"  network: {outgoing: {block: [{ipBlock: {cidr: 10.0.0.0/8}}]}}\n")
	alice.until(allowed.Name, func(got *sessions.Session) error {
		if len(got.Status.Notices) == 0 {
			return errors.New("the change was not told")
		}
		return nil
	})
	eventually(t, func() error {
		out, err := s.env.Kubectl(t, s.env.Kubeconfig, nil, "get", "mirrordpolicy", "no-steal", "-n", s.ns, "-o", "jsonpath={.status.conditions[?(@.type=='Valid')].status}")
		if err != nil || out != "True" {
			return fmt.Errorf("the policy's condition is %q, %w", out, err)
		}
		return nil
	})
	alice.mustEnd(allowed.Name)
	if out, err := s.env.Kubectl(t, s.env.Kubeconfig, nil, "delete", "mirrordpolicy", "no-steal", "-n", s.ns); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

const follow = `
apiVersion: profiles.mirrord.metalbear.co/v1alpha
kind: MirrordProfile
metadata: {name: base}
spec:
  featureAdjustments: [{change: incoming-%s}]
`

func (s *operatorStage) testProfiles(t *testing.T, alice *sessionUser) {
	s.env.Apply(t, s.ns, fmt.Sprintf(follow, "steal"))
	follows := spec(t, "deployment/shop")
	follows.Profile = s.ns + "/base"
	made := alice.createSoon(follows, func(*sessions.Session) error { return nil })
	forged := spec(t, "deployment/shop")
	forged.Profile, forged.Features.Incoming.Mode = s.ns+"/base", "mirror"
	alice.refusedSoon(forged, func(err error) error {
		var status apierrors.APIStatus
		if !errors.As(err, &status) || status.Status().Details == nil ||
			len(status.Status().Details.Causes) != 1 || status.Status().Details.Causes[0].Type != "ProfileNotFollowed" {
			return fmt.Errorf("a session that claims a profile and does otherwise: %w", err)
		}
		return nil
	})
	s.env.Apply(t, s.ns, fmt.Sprintf(follow, "mirror"))
	alice.until(made.Name, func(got *sessions.Session) error {
		for _, n := range got.Status.Notices {
			if n.Level == "warning" && strings.Contains(n.Text, "goes on as it was started") && strings.Contains(n.Text, "feature.network.incoming.mode") {
				return nil
			}
		}
		return fmt.Errorf("the phase is %s, and the user is told %+v", got.Status.Phase, got.Status.Notices)
	})
	// A policy that does not allow it any more is another matter.
	ends := alice.watchEnd(made)
	s.env.Apply(t, s.ns, `
apiVersion: policies.mirrord.metalbear.co/v1alpha
kind: MirrordPolicy
metadata: {name: only-others}
spec: {targetPath: deployment/shop, requireProfile: true, profileAllowlist: [others], block: []}
`)
	if e := alice.ended(ends); e.Reason != "PolicyChanged" || !strings.Contains(e.Text, "only-others") {
		t.Errorf("the end of a session whose profile no policy allows any more: %+v", e)
	}
	if out, err := s.env.Kubectl(t, s.env.Kubeconfig, nil, "delete", "mirrordpolicy", "only-others", "-n", s.ns); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func (s *operatorStage) testAgentGone(t *testing.T, alice *sessionUser) {
	made := alice.mustCreate("deployment/shop")
	before := made.Status.Attachments[0]
	pod := s.agents(t)
	if len(pod) == 0 {
		t.Fatal("there is no agent")
	}
	for _, p := range pod {
		if err := s.env.Client.CoreV1().Pods("mirrord").Delete(t.Context(), p.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))}); err != nil {
			t.Fatal(err)
		}
	}
	alice.until(made.Name, func(got *sessions.Session) error {
		if len(got.Status.Attachments) != 1 || got.Status.Attachments[0].AgentKey == before.AgentKey {
			return fmt.Errorf("the attachments are %+v", got.Status.Attachments)
		}
		return nil
	})
	eventually(t, func() error {
		if code, err := alice.connect(made.Name, before.Name); code != http.StatusSwitchingProtocols {
			return fmt.Errorf("connecting to the new agent: %d, %w", code, err)
		}
		return nil
	})
	alice.mustEnd(made.Name)
}

// testReplicas takes every replica away, the leader among them, without a word of warning.
func (s *operatorStage) testReplicas(t *testing.T, alice *sessionUser) {
	made := alice.mustCreate("deployment/shop")
	replicas := s.env.Pods(t, "mirrord", "app.kubernetes.io/name=mirrord-operator")
	if len(replicas) != 2 {
		t.Fatalf("there are %d replicas", len(replicas))
	}
	for _, replica := range replicas {
		err := s.env.Client.CoreV1().Pods("mirrord").Delete(t.Context(), replica.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))})
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		eventually(t, func() error {
			code, err := alice.connect(made.Name, made.Status.Attachments[0].Name)
			if code != http.StatusSwitchingProtocols {
				return fmt.Errorf("connecting: %d, %w", code, err)
			}
			another, err := alice.create(spec(t, "deployment/shop"))
			if err != nil {
				return err
			}
			return alice.end(another.Name)
		})
		t.Logf("sessions go on, and new ones start, %v after a replica was killed", time.Since(start).Round(time.Millisecond))
		s.env.WaitReady(t, "mirrord", "deployment/mirrord-operator")
	}
	s.scale(t, 2)
	alice.attached(made.Name, 2)
	s.scale(t, 1)
	alice.attached(made.Name, 1)
	alice.mustEnd(made.Name)
}

func (s *operatorStage) testNonsense(t *testing.T, alice *sessionUser) {
	for name, change := range map[string]func(*sessions.SessionSpec){
		"no target":     func(s *sessions.SessionSpec) { s.Target = "" },
		"no kind":       func(s *sessions.SessionSpec) { s.Target = "shop" },
		"no key":        func(s *sessions.SessionSpec) { s.ClientKey = "sha256:12" },
		"no mode":       func(s *sessions.SessionSpec) { s.Features.Incoming.Mode = "all" },
		"too much":      func(s *sessions.SessionSpec) { s.Client.Program = strings.Repeat("x", 2000) },
		"no such steal": func(s *sessions.SessionSpec) { s.OnConcurrentSteal = "share" },
		"an odd port":   func(s *sessions.SessionSpec) { s.Features.Incoming.Ports = []int32{-1} },
		"an odd filter": func(s *sessions.SessionSpec) { s.Features.DNS.Filter = &sessions.Filter{Side: "left"} },
	} {
		bad := spec(t, "deployment/shop")
		change(&bad)
		if _, err := alice.create(bad); !apierrors.IsInvalid(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	huge := spec(t, "deployment/shop")
	huge.Client.Program = strings.Repeat("x", 1<<20)
	if _, err := alice.create(huge); err == nil {
		t.Error("a specification of a MiB was accepted")
	}
	if code, _ := alice.connect("s-none", "x"); code != http.StatusNotFound {
		t.Errorf("connecting to no session: %d", code)
	}
}

// testForged speaks to the operator's pod directly, as whoever runs in the cluster could.
func (s *operatorStage) testForged(t *testing.T) {
	pod := s.env.Pods(t, "mirrord", "app.kubernetes.io/name=mirrord-operator")[0]
	url := "https://" + pod.Status.PodIP + ":8443/apis/" + sessions.GroupName + "/v1alpha/sessions"
	admin, err := rest.TLSConfigFor(s.env.Config)
	if err != nil {
		t.Fatal(err)
	}
	id, err := tunnel.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	own := id.TLSConfig("http/1.1", func(tunnel.Fingerprint) error { return nil }).Certificates
	token, err := s.env.Client.CoreV1().ServiceAccounts("mirrord").CreateToken(t.Context(), "mirrord-operator", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		certs  []tls.Certificate
		bearer string
	}{
		"no certificate":                {},
		"a certificate of one's own":    {certs: own},
		"the administrator's":           {certs: admin.Certificates},
		"a token that the cluster made": {bearer: token.Status.Token},
	} {
		client := &http.Client{Transport: &http.Transport{
			TLSClientConfig:   &tls.Config{InsecureSkipVerify: true, Certificates: test.certs}, // the operator's identity is not what this is about
			DisableKeepAlives: true,
		}, Timeout: patience}
		req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Remote-User", "kubernetes-admin")
		req.Header.Add("X-Remote-Group", "system:masters")
		if test.bearer != "" {
			req.Header.Set("Authorization", "Bearer "+test.bearer)
		}
		resp, err := client.Do(req)
		if err != nil {
			continue // refused before a word was said, which is as well
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s: %s", name, resp.Status)
		}
	}
}

func (s *operatorStage) testKubectl(t *testing.T, alice *sessionUser) {
	made := alice.mustCreate("deployment/shop")
	var out string
	eventually(t, func() (err error) { // each replica learns by itself of it
		if out, err = s.env.Kubectl(t, s.env.Kubeconfig, nil, "get", "sessions", "-A"); err != nil {
			return err
		}
		if !strings.Contains(out, made.Name) || !strings.Contains(out, "steal, outgoing, dns, env") || !strings.Contains(out, alice.name) {
			return fmt.Errorf("the session is not in the table:\n%s", out)
		}
		return nil
	})
	lines := strings.Split(out, "\n")
	if got := strings.Join(strings.Fields(lines[0]), " "); got != "NAMESPACE NAME USER TARGET PROFILE FEATURES PHASE AGE" {
		t.Errorf("the columns are %q", got)
	}
	if out, err := s.env.Kubectl(t, s.env.Kubeconfig, nil, "explain", "sessions.spec.clientKey"); err != nil || !strings.Contains(out, "SubjectPublicKeyInfo") {
		t.Errorf("explain: %v\n%s", err, out)
	}
	if out, err := s.env.Kubectl(t, s.env.Kubeconfig, nil, "get", "targets", "-n", s.ns); err != nil || !strings.Contains(out, "deployment/shop") {
		t.Errorf("targets: %v\n%s", err, out)
	}
	if out, err := s.env.Kubectl(t, s.env.Kubeconfig, nil, "delete", "session", made.Name, "-n", s.ns); err != nil || !strings.Contains(out, "deleted") {
		t.Errorf("delete: %v\n%s", err, out)
	}
}
