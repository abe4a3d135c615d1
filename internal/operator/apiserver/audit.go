package apiserver

import (
	"log/slog"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	auditinternal "k8s.io/apiserver/pkg/apis/audit"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// auditPrefix is before the names of our audit annotations.
const auditPrefix = "sessions.mirrord.metalbear.co/"

// auditLog writes who did what to the log, one line for each request that changes something
// or was refused. The Kubernetes API server has its own audit log of the same requests; this
// one adds the session.
type auditLog struct{ log *slog.Logger }

// EvaluatePolicyRule implements audit.PolicyRuleEvaluator.
func (auditLog) EvaluatePolicyRule(a authorizer.Attributes) audit.RequestAuditConfig {
	level := auditinternal.LevelMetadata
	if !a.IsResourceRequest() || a.IsReadOnly() && a.GetSubresource() == "" {
		level = auditinternal.LevelNone
	}
	return audit.RequestAuditConfig{
		Level:             level,
		OmitStages:        []auditinternal.Stage{auditinternal.StageRequestReceived, auditinternal.StageResponseStarted},
		OmitManagedFields: true,
	}
}

// ProcessEvents implements audit.Sink.
func (a auditLog) ProcessEvents(events ...*auditinternal.Event) bool {
	for _, e := range events {
		if e.Stage != auditinternal.StageResponseComplete && e.Stage != auditinternal.StagePanic {
			continue
		}
		attrs := []any{"auditID", e.AuditID, "verb", e.Verb, "user", e.User.Username, "uri", e.RequestURI}
		if e.ResponseStatus != nil {
			attrs = append(attrs, "code", e.ResponseStatus.Code)
			if e.ResponseStatus.Status == metav1.StatusFailure {
				attrs = append(attrs, "reason", e.ResponseStatus.Reason)
			}
		}
		for k, v := range e.Annotations {
			if name, ours := strings.CutPrefix(k, auditPrefix); ours {
				attrs = append(attrs, name, v)
			}
		}
		a.log.Info("request", attrs...)
	}
	return true
}

// Run implements audit.Backend.
func (auditLog) Run(<-chan struct{}) error { return nil }

// Shutdown implements audit.Backend.
func (auditLog) Shutdown() {}

// String implements audit.Backend.
func (auditLog) String() string { return "log" }
