package kube

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mirrord-go/mirrord/api/sessions/v1alpha"
	"github.com/mirrord-go/mirrord/internal/config"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	sessionsRoot = "/apis/sessions.mirrord.metalbear.co/v1alpha"
	shopSessions = sessionsRoot + "/namespaces/shop/sessions"
)

func TestHasOperator(t *testing.T) {
	for _, test := range []struct {
		name   string
		answer http.HandlerFunc
		want   bool
		says   string
	}{
		{"there", respond(http.StatusOK, `{"kind":"APIResourceList"}`), true, ""},
		{"not there", func(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) }, false, ""},
		{"down", status(http.StatusServiceUnavailable, "ServiceUnavailable", "no endpoints available"), true, "does not answer: no endpoints"},
		{"not logged in", status(http.StatusUnauthorized, "Unauthorized", "no"), false, "does not accept the credentials"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newServer(t, map[string]http.HandlerFunc{"GET " + sessionsRoot: test.answer})
			got, err := connect(t, s.URL).HasOperator(t.Context())
			if test.says != "" {
				says(t, err, test.says)
			} else if err != nil {
				t.Error(err)
			}
			if got != test.want {
				t.Errorf("operator %v", got)
			}
		})
	}
}

func TestCreateSession(t *testing.T) {
	var got v1alpha.Session
	s := newServer(t, map[string]http.HandlerFunc{"POST " + shopSessions: func(w http.ResponseWriter, r *http.Request) {
		if err := json.NewDecoder(r.Body).Decode(&got); err != nil {
			t.Error(err)
		}
		made := got
		made.Name, made.Status.Phase = "s-1", v1alpha.SessionActive
		object(made)(w, r)
	}})
	spec := v1alpha.SessionSpec{Target: "deployment/shop", ClientKey: "k", Profile: "team"}
	made, err := connect(t, s.URL).CreateSession(t.Context(), "", spec)
	if err != nil {
		t.Fatal(err)
	}
	if made.Name != "s-1" || got.Name != "" || got.Kind != "Session" {
		t.Errorf("made %+v of %+v", made, got)
	}
	if diff := cmp.Diff(spec, got.Spec); diff != "" {
		t.Error(diff)
	}
}

func TestCreateSessionRefusals(t *testing.T) {
	refusal := func(code int, reason metav1.StatusReason, message string, details *metav1.StatusDetails) http.HandlerFunc {
		b, _ := json.Marshal(metav1.Status{
			TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: "Failure",
			Code: int32(code), Reason: reason, Message: message, Details: details,
		})
		return respond(code, string(b))
	}
	for _, test := range []struct {
		name   string
		answer http.HandlerFunc
		reason Reason
		says   []string
	}{
		{"policies", refusal(403, "Forbidden", "all of it", &metav1.StatusDetails{Kind: "sessions", Causes: []metav1.StatusCause{
			{Type: "Blocked", Field: "no-steal: block", Message: "steals\nMirror instead."},
			{Type: "ProfileRequired", Field: "shop/profiles: requireProfile", Message: "no profile\nUse team-base."},
		}}), ReasonRefused, []string{
			"starting a session on deployment/shop: the cluster's policies do not allow it",
			"- no-steal: block: steals\n  Mirror instead.", "- shop/profiles: requireProfile: no profile\n  Use team-base.",
		}},
		{"no right to the target", refusal(403, "Forbidden", "no", &metav1.StatusDetails{Kind: "targets", Name: "deployment.shop"}), "", []string{"does not let you get targets.sessions.mirrord.metalbear.co in namespace shop"}},
		{"no right to sessions", refusal(403, "Forbidden", "no", &metav1.StatusDetails{Kind: "sessions"}), "", []string{"create sessions.sessions", "watch sessions", `verbs: ["create", "get", "list", "watch", "delete"]`}},
		{"too many", refusal(429, "TooManyRequests", "jane has 50\nEnd one.", &metav1.StatusDetails{Causes: []metav1.StatusCause{
			{Type: v1alpha.CauseSessionLimit},
		}}), ReasonRefused, []string{"starting a session on deployment/shop: jane has 50", "End one."}},
		{"no target", refusal(404, "NotFound", `namespace "shop" has no deployment "shop"`, nil), ReasonNotFound, []string{"has no deployment", "mirrord ls"}},
		{"no container", refusal(400, "BadRequest", "it has no container\nIts containers are a.", nil), ReasonOther, []string{"it has no container", "Its containers are a."}},
		{"an own pod", refusal(400, "BadRequest", "the operator and its agents can't be targets", nil), ReasonOther, []string{"can't be targets"}},
		{"agents fail", refusal(500, "InternalError", "the image can't be pulled", nil), ReasonOther, []string{"the image can't be pulled", "mirrord operator status"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newServer(t, map[string]http.HandlerFunc{"POST " + shopSessions: test.answer})
			_, err := connect(t, s.URL).CreateSession(t.Context(), "shop", v1alpha.SessionSpec{Target: "deployment/shop"})
			says(t, err, test.says...)
			if reasonOf(err) != test.reason {
				t.Errorf("reason %q", reasonOf(err))
			}
			// What is wrong with a request is not for the operator to tell more about.
			if e, ok := errors.AsType[*Error](err); ok && test.name == "an own pod" && e.Next != "" {
				t.Errorf("advice for the user's mistake: %q", e.Next)
			}
		})
	}
}

func TestFollowSession(t *testing.T) {
	one := func(phase v1alpha.SessionPhase) v1alpha.Session {
		return v1alpha.Session{ObjectMeta: metav1.ObjectMeta{Name: "s-1"}, Status: v1alpha.SessionStatus{Phase: phase}}
	}
	lists := 0
	s := newServer(t, map[string]http.HandlerFunc{"GET " + shopSessions: func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		if q.Get("fieldSelector") != "metadata.name=s-1" {
			t.Errorf("asked for %s", r.URL)
		}
		if q.Get("watch") == "" {
			if lists++; lists == 2 { // an outage changes nothing
				status(http.StatusServiceUnavailable, "ServiceUnavailable", "no endpoints")(w, r)
				return
			}
			object(v1alpha.SessionList{ListMeta: metav1.ListMeta{ResourceVersion: "7"}, Items: []v1alpha.Session{one(v1alpha.SessionActive)}})(w, r)
			return
		}
		if q.Get("resourceVersion") != "7" {
			t.Errorf("watches from %s", r.URL)
		}
		event := func(kind string, s v1alpha.Session) {
			b, _ := json.Marshal(map[string]any{"type": kind, "object": s})
			_, _ = w.Write(append(b, '\n'))
		}
		event("BOOKMARK", v1alpha.Session{})
		event("MODIFIED", one(v1alpha.SessionWaiting))
		if lists > 2 {
			event("MODIFIED", one(v1alpha.SessionEnded))
			event("DELETED", one(v1alpha.SessionEnded))
		}
	}})
	var seen []string
	err := connect(t, s.URL).FollowSession(t.Context(), "shop", "s-1", func(s *v1alpha.Session) { seen = append(seen, string(s.Status.Phase)) })
	if reasonOf(err) != ReasonNotFound {
		t.Errorf("ended with %v", err)
	}
	if diff := cmp.Diff([]string{"Active", "Waiting", "Active", "Waiting", "Ended"}, seen); diff != "" {
		t.Error(diff)
	}
}

// TestDeleteSession: the answer is a session, of which the server has no form in protocol buffers.
func TestDeleteSession(t *testing.T) {
	asked := 0
	s := newServer(t, map[string]http.HandlerFunc{"DELETE " + shopSessions + "/s-1": func(w http.ResponseWriter, r *http.Request) {
		asked++
		if accept := r.Header.Get("Accept"); accept != "application/json" {
			t.Errorf("the client wants %q", accept)
		}
		object(v1alpha.Session{ObjectMeta: metav1.ObjectMeta{Name: "s-1"}})(w, r)
	}})
	if err := connect(t, s.URL).DeleteSession(t.Context(), "shop", "s-1"); err != nil || asked != 1 {
		t.Errorf("asked %d times, %v", asked, err)
	}
}

// TestEndSession: who names a session reads when it is not there.
func TestEndSession(t *testing.T) {
	s := newServer(t, map[string]http.HandlerFunc{
		"GET " + sessionsRoot:             object(metav1.APIResourceList{}),
		"DELETE " + shopSessions + "/s-1": object(v1alpha.Session{ObjectMeta: metav1.ObjectMeta{Name: "s-1"}}),
		"DELETE " + shopSessions + "/s-2": status(http.StatusNotFound, "NotFound", "no such session"),
	})
	c := connect(t, s.URL)
	if err := c.EndSession(t.Context(), "shop", "s-1"); err != nil {
		t.Error(err)
	}
	err := c.EndSession(t.Context(), "shop", "s-2")
	says(t, err, `ending session s-2: namespace "shop" has no session of that name`, "mirrord session list --all-namespaces")
	if reasonOf(err) != ReasonNotFound {
		t.Errorf("reason %q", reasonOf(err))
	}
	without := connect(t, newServer(t, nil).URL)
	says(t, without.EndSession(t.Context(), "shop", "s-1"), "ending session s-1: no operator is installed in this cluster")
}

func TestListSessions(t *testing.T) {
	one := func(name string) http.HandlerFunc {
		return object(v1alpha.SessionList{Items: []v1alpha.Session{{ObjectMeta: metav1.ObjectMeta{Name: name}}}})
	}
	s := newServer(t, map[string]http.HandlerFunc{
		"GET " + shopSessions:               one("of-shop"),
		"GET " + sessionsRoot + "/sessions": one("of-all"),
	})
	c := connect(t, s.URL)
	for namespace, want := range map[string]string{"shop": "of-shop", "": "of-all"} {
		if list, err := c.ListSessions(t.Context(), namespace); err != nil || len(list) != 1 || list[0].Name != want {
			t.Errorf("namespace %q: %+v, %v", namespace, list, err)
		}
	}
	_, err := connect(t, newServer(t, nil).URL).ListSessions(t.Context(), "")
	says(t, err, "listing sessions: no operator is installed in this cluster")
}

func TestDialSession(t *testing.T) {
	s := newServer(t, map[string]http.HandlerFunc{
		"GET " + shopSessions + "/s-1/connect": func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("attachment") != "uid-1" || r.Header.Get("Upgrade") != tunnelProtocol {
				t.Errorf("asked for %s with %v", r.URL, r.Header)
			}
			conn, buffered, err := w.(http.Hijacker).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\nhello ", tunnelProtocol)
			line, _ := buffered.ReadString('\n')
			fmt.Fprint(conn, strings.ToUpper(line))
			_, _ = io.Copy(io.Discard, conn)
		},
		"GET " + shopSessions + "/s-2/connect": status(http.StatusNotFound, "NotFound", "no such session"),
		"GET " + shopSessions + "/s-3/connect": status(http.StatusForbidden, "Forbidden", "it is somebody else's"),
		"GET " + shopSessions + "/s-4/connect": status(http.StatusServiceUnavailable, "ServiceUnavailable", "no endpoints"),
	})
	c := connect(t, s.URL)
	conn, err := c.DialSession(t.Context(), "shop", "s-1", "uid-1")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "world\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || line != "hello WORLD\n" {
		t.Errorf("read %q, %v", line, err)
	}
	if conn.RemoteAddr() == nil || conn.LocalAddr() == nil {
		t.Error("the connection has no addresses")
	}
	if err := conn.SetDeadline(time.Now().Add(-time.Second)); err != nil {
		t.Error(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("a read after the deadline")
	}
	if _, err := c.DialSession(t.Context(), "shop", "s-2", "uid-1"); reasonOf(err) != ReasonNotFound {
		t.Errorf("a session that is gone: %v", err)
	}
	_, err = c.DialSession(t.Context(), "shop", "s-3", "uid-1")
	says(t, err, "get sessions/connect.sessions")
	_, err = c.DialSession(t.Context(), "shop", "s-4", "uid-1")
	if down := (*OperatorDownError)(nil); !errors.As(err, &down) {
		t.Errorf("no operator: %v", err)
	}
}

func TestOperatorTargets(t *testing.T) {
	target := func(path string) v1alpha.Target { return v1alpha.Target{Spec: v1alpha.TargetSpec{Path: path}} }
	s := newServer(t, map[string]http.HandlerFunc{
		"GET " + sessionsRoot + "/namespaces/shop/targets": object(v1alpha.TargetList{Items: []v1alpha.Target{
			target("targetless"), target("pod/b"), target("pod/a"), target("deployment/shop"), target("newkind/x"),
		}}),
	})
	for _, test := range []struct {
		kinds []config.TargetKind
		want  string
	}{
		{nil, "deployment/shop pod/a pod/b"},
		{[]config.TargetKind{config.Pod}, "pod/a pod/b"},
	} {
		got, err := connect(t, s.URL).OperatorTargets(t.Context(), "", test.kinds)
		var paths []string
		for _, p := range got {
			paths = append(paths, p.String())
		}
		if strings.Join(paths, " ") != test.want || err != nil {
			t.Errorf("%v: %v, %v", test.kinds, paths, err)
		}
	}
}
