package attach

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mirrord-go/mirrord/api/sessions/v1alpha"
	"github.com/mirrord-go/mirrord/internal/kube"
	"github.com/mirrord-go/mirrord/internal/session"
)

// api is an operator that says what a test has it say.
type api struct {
	says    chan v1alpha.SessionStatus
	gone    chan error
	deleted int
}

func newAPI() *api {
	return &api{says: make(chan v1alpha.SessionStatus), gone: make(chan error, 1)}
}

func (a *api) FollowSession(ctx context.Context, namespace, name string, see func(*v1alpha.Session)) error {
	for {
		select {
		case s := <-a.says:
			see(&v1alpha.Session{Status: s})
		case err := <-a.gone:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (a *api) DialSession(_ context.Context, namespace, name, attachment string) (net.Conn, error) {
	return nil, errors.New(namespace + "/" + name + "/" + attachment)
}

func (a *api) DeleteSession(context.Context, string, string) error {
	a.deleted++
	return nil
}

const someKey = "sha256:1111111111111111111111111111111111111111111111111111111111111111"

// status has attachments by pod; "pod/2" has its second agent.
func status(pods ...string) v1alpha.SessionStatus {
	s := v1alpha.SessionStatus{Phase: v1alpha.SessionActive}
	for _, p := range pods {
		name, second := strings.CutSuffix(p, "/2")
		a := v1alpha.Attachment{Name: "uid-" + name, Pod: name, Container: "app", Node: "n", AgentKey: someKey}
		if second {
			a.AgentKey = strings.ReplaceAll(someKey, "1", "2")
		}
		s.Attachments = append(s.Attachments, a)
	}
	return s
}

func begin(t *testing.T, a *api, pods ...string) session.Attachments {
	return Operator(t.Context(), quiet(), a, &v1alpha.Session{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "s-1"}, Status: status(pods...),
	})
}

func TestOperatorSaysWhichPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI()
		a := begin(t, api, "a", "b")
		first, _ := next(t, a, "a", "b")
		agent := first.Attachments[0].Agent
		if agent.Key().String() != someKey || agent.Describe() != "the operator's agent on node n" {
			t.Errorf("agent %s, %s", agent.Key(), agent.Describe())
		}
		if _, err := agent.Dial(t.Context()); err == nil || err.Error() != "shop/s-1/uid-a" {
			t.Errorf("dialled %v", err)
		}
		api.says <- status("b", "a/2")
		then, _ := next(t, a, "b", "a")
		if then.Attachments[0].Agent != first.Attachments[1].Agent {
			t.Error("b has another agent")
		}
		if then.Attachments[1].Agent == agent {
			t.Error("a has the old agent")
		}
		if fate, ok := agent.(interface{ Fate(context.Context) error }); !ok || fate.Fate(t.Context()) == nil {
			t.Error("the old agent seems to be there")
		}
		api.says <- status()
		next(t, a)
		if err := a.Close(t.Context()); err != nil || api.deleted != 1 {
			t.Errorf("the session was deleted %d times: %v", api.deleted, err)
		}
	})
}

func TestOperatorNoticesAreToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI()
		a := begin(t, api, "a")
		next(t, a, "a")
		notice := func(text string, at int64) v1alpha.Notice {
			return v1alpha.Notice{Time: metav1.Unix(at, 0), Level: "warning", Text: text}
		}
		var said []string
		for _, list := range [][]v1alpha.Notice{{notice("one", 1)}, {notice("one", 1), notice("two", 2)}, {notice("two", 2), notice("one", 3)}} {
			s := status("a")
			s.Notices = list
			api.says <- s
			synctest.Wait()
			_, more := next(t, a, "a")
			said = append(said, more...)
		}
		if diff := cmp.Diff([]string{"one", "two", "one"}, said); diff != "" {
			t.Error(diff)
		}
		_ = a.Close(t.Context())
	})
}

func TestOperatorEnds(t *testing.T) {
	for name, test := range map[string]struct {
		end  *v1alpha.SessionEnd
		gone error
		says string
	}{
		"by a user":      {end: &v1alpha.SessionEnd{By: "anna", Reason: "Deleted", Text: "anna ended the session"}, says: "the session was ended by anna"},
		"by a policy":    {end: &v1alpha.SessionEnd{By: "operator", Reason: "PolicyChanged", Text: "no stealing any more"}, says: "ended by the operator: no stealing any more"},
		"without a word": {gone: &kube.Error{Reason: kube.ReasonNotFound, Doing: "x", Why: "y"}, says: "it no longer knows session s-1"},
		"without rights": {gone: errors.New("you may not"), says: "you may not"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				api := newAPI()
				a := begin(t, api, "a")
				next(t, a, "a")
				if test.end != nil {
					s := status()
					s.End = test.end
					api.says <- s
				} else {
					api.gone <- test.gone
				}
				over(t, a, test.says)
				_ = a.Close(t.Context())
				if deleted := api.deleted == 1; deleted == (name != "without rights") {
					t.Errorf("deleted %v", deleted)
				}
			})
		})
	}
}

// TestOperatorAgentIsTriedAgain: an agent that was lost, and of which the operator says
// nothing, is listed anew after a while.
func TestOperatorAgentIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI()
		a := begin(t, api, "a")
		u, _ := next(t, a, "a")
		for _, pause := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second} {
			a.Lost(u.Attachments[0], errors.New("cut"))
			a.Lost(u.Attachments[0], errors.New("cut"))
			lost := time.Now()
			again, _ := next(t, a, "a")
			if again.Attachments[0].Agent == u.Attachments[0].Agent {
				t.Fatal("the same agent is listed")
			}
			if took := time.Since(lost); took != pause {
				t.Errorf("it was listed after %v, want %v", took, pause)
			}
			u = again
		}
		_ = a.Close(t.Context())
	})
}

type finder struct {
	there bool
	err   error
	asked int
}

func (f *finder) HasOperator(context.Context) (bool, error) { f.asked++; return f.there, f.err }

func TestUseOperator(t *testing.T) {
	down := &kube.OperatorDownError{Why: "no endpoints"}
	for _, test := range []struct {
		name   string
		wanted *bool
		finder finder
		use    bool
		says   string
		asked  int
	}{
		{"unset, there", nil, finder{there: true}, true, "", 1},
		{"unset, not there", nil, finder{}, false, "", 1},
		{"unset, down", nil, finder{there: true, err: down}, true, "no endpoints", 1},
		{"wanted, there", new(true), finder{there: true}, true, "", 1},
		{"wanted, not there", new(true), finder{}, false, "none is installed", 1},
		{"not wanted", new(false), finder{there: true}, false, "", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			use, err := UseOperator(t.Context(), &test.finder, test.wanted)
			if test.says != "" {
				if err == nil || !strings.Contains(err.Error(), test.says) {
					t.Errorf("error %v", err)
				}
			} else if err != nil || use != test.use {
				t.Errorf("%v, %v", use, err)
			}
			if test.finder.asked != test.asked {
				t.Errorf("asked %d times", test.finder.asked)
			}
		})
	}
}
