package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	sessions "github.com/mirrord-go/mirrord/api/sessions/v1alpha"
	"github.com/mirrord-go/mirrord/internal/tunnel"
	"github.com/mirrord-go/mirrord/test/clustertest"
)

// operatorStage is a namespace with a target, and an operator.
type operatorStage struct {
	*installation
	ns string
}

// sessionUser speaks to the operator's API with one user's rights.
type sessionUser struct {
	t          *testing.T
	name       string
	ns         string
	kubeconfig string
	config     *rest.Config
	client     rest.Interface
}

// user makes a user with the rights to run sessions in the stage's namespace, on the targets.
func (s *operatorStage) user(t *testing.T, name string, targets ...string) *sessionUser {
	t.Helper()
	group := []string{sessions.GroupName}
	rules := []rbacv1.PolicyRule{
		{APIGroups: group, Resources: []string{"sessions"}, Verbs: []string{"create", "get", "list", "watch", "delete"}},
		{APIGroups: group, Resources: []string{"sessions/connect"}, Verbs: []string{"create", "get"}},
	}
	if len(targets) > 0 {
		rules = append(rules, rbacv1.PolicyRule{APIGroups: group, Resources: []string{"targets"}, Verbs: []string{"get"}, ResourceNames: targets})
	}
	name += "-" + s.ns
	kubeconfig := s.env.User(t, name, clustertest.Grant{Namespace: s.ns, Rules: rules})
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	client, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return &sessionUser{t: t, name: name, ns: s.ns, kubeconfig: kubeconfig, config: config, client: client.RESTClient()}
}

func (u *sessionUser) path(parts ...string) string {
	return strings.Join(append([]string{"/apis", sessions.GroupName, "v1alpha/namespaces", u.ns}, parts...), "/")
}

// as runs the user's requests in a subtest.
func (u *sessionUser) as(t *testing.T) *sessionUser {
	other := *u
	other.t = t
	return &other
}

// spec is a session that takes everything from a target.
func spec(t *testing.T, target string) sessions.SessionSpec {
	t.Helper()
	id, err := tunnel.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	return sessions.SessionSpec{
		Target: target, ClientKey: id.Fingerprint().String(),
		Features: sessions.Features{
			Incoming: sessions.Incoming{Mode: "steal"}, Outgoing: sessions.Outgoing{TCP: true, UDP: true},
			DNS: sessions.DNS{Enabled: true}, Env: sessions.Env{Enabled: true}, Files: sessions.Files{Mode: "local"},
		},
		Client: sessions.ClientInfo{Program: "shop"},
	}
}

func (u *sessionUser) create(s sessions.SessionSpec) (*sessions.Session, error) {
	u.t.Helper()
	body, err := json.Marshal(sessions.Session{
		TypeMeta: metav1.TypeMeta{APIVersion: sessions.GroupVersion.String(), Kind: "Session"}, Spec: s,
	})
	if err != nil {
		u.t.Fatal(err)
	}
	raw, err := u.client.Post().AbsPath(u.path("sessions")).SetHeader("Content-Type", "application/json").Body(body).Do(u.t.Context()).Raw()
	if err != nil {
		return nil, statusOf(raw, err)
	}
	var made sessions.Session
	if err := json.Unmarshal(raw, &made); err != nil {
		u.t.Fatal(err)
	}
	return &made, nil
}

// statusOf is the server's answer with all that it says.
func statusOf(raw []byte, err error) error {
	var status metav1.Status
	if json.Unmarshal(raw, &status) == nil && status.Kind == "Status" {
		return &apierrors.StatusError{ErrStatus: status}
	}
	return err
}

// mustCreate creates a session, as soon as that works: each replica of the operator learns by itself what there is, and
// what has gone.
func (u *sessionUser) mustCreate(target string) *sessions.Session {
	u.t.Helper()
	return u.createSoon(spec(u.t, target), func(*sessions.Session) error { return nil })
}

// createSoon creates a session as soon as it comes out as check wants it. Others are ended.
func (u *sessionUser) createSoon(spec sessions.SessionSpec, check func(*sessions.Session) error) (made *sessions.Session) {
	u.t.Helper()
	eventually(u.t, func() (err error) {
		if made, err = u.create(spec); err != nil {
			return err
		}
		if err = check(made); err != nil {
			u.mustEnd(made.Name)
		}
		return err
	})
	return made
}

// refusedSoon waits until a session is refused with an error that check accepts.
func (u *sessionUser) refusedSoon(spec sessions.SessionSpec, check func(error) error) {
	u.t.Helper()
	eventually(u.t, func() error {
		made, err := u.create(spec)
		if err == nil {
			u.mustEnd(made.Name)
			return fmt.Errorf("the session on %s is allowed", spec.Target)
		}
		return check(err)
	})
}

// mustEnd ends a session, if need be in several attempts.
func (u *sessionUser) mustEnd(name string) {
	u.t.Helper()
	eventually(u.t, func() error {
		if err := u.end(name); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
		return nil
	})
}

func (u *sessionUser) get(name string) (*sessions.Session, error) {
	raw, err := u.client.Get().AbsPath(u.path("sessions", name)).Do(u.t.Context()).Raw()
	if err != nil {
		return nil, statusOf(raw, err)
	}
	var s sessions.Session
	return &s, json.Unmarshal(raw, &s)
}

func (u *sessionUser) end(name string) error {
	raw, err := u.client.Delete().AbsPath(u.path("sessions", name)).Do(u.t.Context()).Raw()
	if err != nil {
		return statusOf(raw, err)
	}
	return nil
}

// until waits until the session is as check wants it.
func (u *sessionUser) until(name string, check func(*sessions.Session) error) *sessions.Session {
	u.t.Helper()
	var last *sessions.Session
	eventually(u.t, func() error {
		s, err := u.get(name)
		if err != nil {
			return err
		}
		last = s
		return check(s)
	})
	return last
}

// attached waits for so many attachments.
func (u *sessionUser) attached(name string, n int) *sessions.Session {
	u.t.Helper()
	return u.until(name, func(s *sessions.Session) error {
		phase := sessions.SessionActive
		if n == 0 {
			phase = sessions.SessionWaiting
		}
		if len(s.Status.Attachments) != n || s.Status.Phase != phase {
			return fmt.Errorf("want %d attachments, have %+v", n, s.Status)
		}
		return nil
	})
}

// connect asks for a carrier and returns the answer's code, and what it is when it is no
// carrier.
func (u *sessionUser) connect(session, attachment string) (int, error) {
	u.t.Helper()
	config := rest.CopyConfig(u.config)
	config.NextProtos = []string{"http/1.1"}
	transport, err := rest.TransportFor(config)
	if err != nil {
		u.t.Fatal(err)
	}
	url := config.Host + u.path("sessions", session, "connect") + "?attachment=" + attachment
	req, err := http.NewRequestWithContext(u.t.Context(), http.MethodGet, url, nil)
	if err != nil {
		u.t.Fatal(err)
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "mirrord-tunnel")
	resp, err := transport.RoundTrip(req)
	if err != nil {
		u.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return resp.StatusCode, nil
	}
	raw, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	return resp.StatusCode, statusOf(raw, errors.New(resp.Status))
}

// watchEnd follows a session from its version on until its end is told.
func (u *sessionUser) watchEnd(s *sessions.Session) <-chan *sessions.SessionEnd {
	u.t.Helper()
	ends := make(chan *sessions.SessionEnd, 1)
	body, err := u.client.Get().AbsPath(u.path("sessions")).Param("watch", "true").Param("resourceVersion", s.ResourceVersion).
		Param("fieldSelector", "metadata.name="+s.Name).Stream(u.t.Context())
	if err != nil {
		u.t.Fatal(err)
	}
	go func() {
		defer body.Close()
		defer close(ends)
		for d := json.NewDecoder(body); ; {
			var e struct {
				Type   string
				Object sessions.Session
			}
			if d.Decode(&e) != nil {
				return
			}
			if e.Object.Status.End != nil {
				ends <- e.Object.Status.End
				return
			}
		}
	}()
	return ends
}

func (u *sessionUser) ended(ends <-chan *sessions.SessionEnd) *sessions.SessionEnd {
	u.t.Helper()
	select {
	case e := <-ends:
		if e == nil {
			u.t.Fatal("the watch ended before the session did")
		}
		return e
	case <-time.After(patience):
		u.t.Fatal("the session's end was not told")
	}
	return nil
}

// agents are the pods of agents.
func (s *operatorStage) agents(t *testing.T) []corev1.Pod {
	t.Helper()
	l, err := s.env.Client.CoreV1().Pods("mirrord").List(t.Context(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=mirrord-agent"})
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(l.Items, func(p corev1.Pod) bool { return p.DeletionTimestamp != nil })
}

func (s *operatorStage) scale(t *testing.T, n int) {
	t.Helper()
	patch := fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, n)
	if _, err := s.env.Client.AppsV1().Deployments(s.ns).Patch(t.Context(), "shop", types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
}
