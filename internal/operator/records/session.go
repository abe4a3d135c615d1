package records

import (
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	records "github.com/mirrord-go/mirrord/api/records/v1alpha"
	sessions "github.com/mirrord-go/mirrord/api/sessions/v1alpha"
)

// Session is a record as users see it. It shares memory with the record.
func Session(r *records.SessionRecord) *sessions.Session {
	s := &sessions.Session{
		ObjectMeta: metav1.ObjectMeta{
			Name: r.Name, Namespace: r.Namespace, UID: r.UID, ResourceVersion: r.ResourceVersion,
			CreationTimestamp: r.CreationTimestamp, DeletionTimestamp: r.DeletionTimestamp,
			Labels: r.Labels, Annotations: r.Annotations,
		},
		Spec: r.Spec, Status: r.Status,
	}
	return s
}

// SessionList is a list of records as users see it.
func SessionList(l *records.SessionRecordList) *sessions.SessionList {
	out := &sessions.SessionList{ListMeta: l.ListMeta, Items: make([]sessions.Session, len(l.Items))}
	for i := range l.Items {
		out.Items[i] = *Session(&l.Items[i])
	}
	return out
}

// End marks a record as ended. It returns [ErrUnchanged] when it has ended already.
func End(r *records.SessionRecord, now time.Time, by, reason, text string) error {
	if r.Status.Phase == sessions.SessionEnded {
		return ErrUnchanged
	}
	r.Status.Phase = sessions.SessionEnded
	r.Status.End = &sessions.SessionEnd{Time: metav1.NewTime(now), By: by, Reason: reason, Text: text}
	return nil
}

// A record keeps so many notices of so many bytes: an agent can be the author of a text, and what is too large
// can't be written.
const (
	maxNotices = 16
	maxNotice  = 4096
)

// Levels of a notice.
const (
	Info    = "info"
	Warning = "warning"
)

// Notify adds a notice for the session's user.
func Notify(r *records.SessionRecord, now time.Time, level, text string) {
	n := append(r.Status.Notices, sessions.Notice{Time: metav1.NewTime(now), Level: level, Text: noticeText(text)})
	r.Status.Notices = n[max(0, len(n)-maxNotices):]
}

// NotifyNew warns the session's user, unless a notice that is kept says the same.
func NotifyNew(r *records.SessionRecord, now time.Time, text string) {
	if slices.ContainsFunc(r.Status.Notices, func(n sessions.Notice) bool { return n.Text == noticeText(text) }) {
		return
	}
	Notify(r, now, Warning, text)
}

// NotifyOnce warns the session's user, unless the last notice said the same.
func NotifyOnce(r *records.SessionRecord, now time.Time, text string) {
	if n := r.Status.Notices; len(n) > 0 && n[len(n)-1].Text == noticeText(text) {
		return
	}
	Notify(r, now, Warning, text)
}

func noticeText(text string) string {
	if len(text) <= maxNotice {
		return text
	}
	return strings.ToValidUTF8(text[:maxNotice], "") + "..."
}

// Reasons for an end, as in [sessions.SessionEnd].
const (
	ReasonDeleted       = "Deleted"
	ReasonPolicyChanged = "PolicyChanged"
	ReasonTargetGone    = "TargetGone"
	ReasonClientGone    = "ClientGone"
	ReasonTimeLimit     = "TimeLimit"
	ReasonRightsChanged = "RightsChanged"
	// ReasonCompleted is a client that said goodbye.
	ReasonCompleted = "Completed"
)

// Operator is who ends sessions when no user does.
const Operator = "operator"
