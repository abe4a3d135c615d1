package sessions

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mirrord-go/mirrord/api/sessions/v1alpha"
	"github.com/mirrord-go/mirrord/internal/cli/clierr"
	"github.com/mirrord-go/mirrord/internal/cli/command"
	"github.com/mirrord-go/mirrord/internal/cli/iostreams"
	"github.com/mirrord-go/mirrord/internal/config"
)

// cluster has sessions and remembers what it was asked.
type cluster struct {
	sessions []v1alpha.Session
	err      error
	asked    []string
}

func (c *cluster) Namespace() string { return "of-context" }
func (c *cluster) Close() error      { return nil }

func (c *cluster) ListSessions(_ context.Context, namespace string) ([]v1alpha.Session, error) {
	c.asked = append(c.asked, "list "+namespace)
	return c.sessions, c.err
}

func (c *cluster) EndSession(_ context.Context, namespace, name string) error {
	c.asked = append(c.asked, "end "+namespace+"/"+name)
	return c.err
}

func execute(c *cluster, args ...string) (stdout, stderr string, err error) {
	streams, _, out, errs := iostreams.Test()
	f := command.New(streams)
	f.LookupEnv = func(string) (string, bool) { return "", false }
	cmd := newCmd(f, func(*config.Config) (Cluster, error) { return c, nil })
	cmd.SetArgs(args)
	cmd.SetOut(io.Discard)
	cmd.SetErr(io.Discard)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	err = cmd.Execute()
	return out.String(), errs.String(), err
}

func some() []v1alpha.Session {
	one := func(namespace, name, user string, age time.Duration, pods int) v1alpha.Session {
		return v1alpha.Session{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, CreationTimestamp: metav1.NewTime(time.Unix(10_000, 0).Add(-age))},
			Spec:       v1alpha.SessionSpec{Target: "deployment/shop"},
			Status:     v1alpha.SessionStatus{Phase: v1alpha.SessionActive, User: user, Attachments: make([]v1alpha.Attachment, pods)},
		}
	}
	return []v1alpha.Session{one("shop", "s-2", "bob", time.Minute, 1), one("shop", "s-1", "anna", time.Hour, 12)}
}

func TestTable(t *testing.T) {
	var out strings.Builder
	if err := printTable(&out, some(), time.Unix(10_000, 0)); err != nil {
		t.Fatal(err)
	}
	want := `NAMESPACE  NAME  USER  TARGET           PROFILE  PODS  PHASE   AGE
shop       s-2   bob   deployment/shop  -        1     Active  60s
shop       s-1   anna  deployment/shop  -        12    Active  60m
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
}

func TestList(t *testing.T) {
	for _, test := range []struct {
		args  []string
		asked string
	}{
		{nil, "list of-context"},
		{[]string{"-n", "shop"}, "list shop"},
		{[]string{"-A"}, "list "},
	} {
		c := &cluster{sessions: some()}
		stdout, _, err := execute(c, append([]string{"list"}, test.args...)...)
		if err != nil || !slicesEqual(c.asked, test.asked) || strings.Index(stdout, "s-1") > strings.Index(stdout, "s-2") {
			t.Errorf("%q: asked %q, printed %s, %v", test.args, c.asked, stdout, err)
		}
	}
	stdout, stderr, err := execute(&cluster{}, "list")
	if err != nil || stdout != "" || !strings.Contains(stderr, "There are no sessions in namespace of-context") {
		t.Errorf("no sessions: %q, %q, %v", stdout, stderr, err)
	}
	if stdout, _, err = execute(&cluster{}, "list", "-o", "json"); err != nil || stdout != "[]\n" {
		t.Errorf("no sessions in JSON: %q, %v", stdout, err)
	}
	_, _, err = execute(&cluster{}, "list", "-A", "-n", "x")
	if _, usage := errors.AsType[*clierr.UsageError](err); !usage {
		t.Errorf("two scopes: %v", err)
	}
}

func slicesEqual(got []string, want string) bool { return len(got) == 1 && got[0] == want }

func TestEnd(t *testing.T) {
	c := &cluster{}
	if _, _, err := execute(c, "end", "s-1", "-n", "shop"); err != nil || !slicesEqual(c.asked, "end shop/s-1") {
		t.Errorf("asked %q, %v", c.asked, err)
	}
	broken := errors.New("it broke")
	if _, _, err := execute(&cluster{err: broken}, "end", "s-1"); !errors.Is(err, broken) {
		t.Errorf("a failure: %v", err)
	}
	if _, _, err := execute(c, "end"); err == nil {
		t.Error("no name, and no error")
	}
}
