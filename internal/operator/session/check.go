package session

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	sessions "github.com/mirrord-go/mirrord/api/sessions/v1alpha"
	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/features"
	"github.com/mirrord-go/mirrord/internal/tunnel"
)

// Bounds of a specification's parts, in bytes and entries. No client of ours comes near them.
const (
	maxText    = 1024
	maxEntries = 1000
	// maxPatterns bounds lists of regular expressions: operator and agents keep them compiled.
	maxPatterns = 100
)

// check holds that the specification can be one of a client's, and returns the target that it
// names. Its error is an Invalid with all problems.
func check(s *sessions.Session) (config.TargetPath, error) {
	var all field.ErrorList
	spec := field.NewPath("spec")
	if s.Name != "" {
		all = append(all, field.Forbidden(field.NewPath("metadata", "name"), "the operator names sessions"))
	}
	path, err := config.ParseTargetPath(s.Spec.Target)
	if err != nil {
		all = append(all, field.Invalid(spec.Child("target"), s.Spec.Target, err.Error()))
	}
	if _, err := tunnel.ParseFingerprint(s.Spec.ClientKey); err != nil {
		all = append(all, field.Invalid(spec.Child("clientKey"), s.Spec.ClientKey, err.Error()))
	}
	switch s.Spec.OnConcurrentSteal {
	case "", sessions.ConcurrentStealAbort, sessions.ConcurrentStealOverride, sessions.ConcurrentStealContinue:
	default:
		all = append(all, field.NotSupported(spec.Child("onConcurrentSteal"), s.Spec.OnConcurrentSteal,
			[]sessions.ConcurrentSteal{sessions.ConcurrentStealAbort, sessions.ConcurrentStealOverride, sessions.ConcurrentStealContinue}))
	}
	large := bounded(spec, &s.Spec)
	all = append(all, large...)
	if len(large) == 0 { // to read patterns costs memory
		if err := features.Check(s.Spec.Features); err != nil {
			all = append(all, field.Invalid(spec.Child("features"), field.OmitValueType{}, err.Error()))
		}
	}
	if len(all) > 0 {
		return path, apierrors.NewInvalid(schema.GroupKind{Group: sessions.GroupName, Kind: "Session"}, s.Name, all)
	}
	return path, nil
}

// bounded holds that nothing is larger than it ever needs to be.
func bounded(at *field.Path, s *sessions.SessionSpec) field.ErrorList {
	var all field.ErrorList
	for name, text := range map[string]string{
		"target": s.Target, "profile": s.Profile, "client.version": s.Client.Version,
		"client.hostname": s.Client.Hostname, "client.program": s.Client.Program,
	} {
		if len(text) > maxText {
			all = append(all, field.TooLong(at.Child(name), "", maxText))
		}
	}
	many := func(list string, n, most int) {
		if n > most {
			all = append(all, field.TooMany(at.Child("features", list), n, most))
		}
	}
	f := &s.Features
	many("incoming.ports", len(f.Incoming.Ports), maxEntries)
	many("incoming.ignorePorts", len(f.Incoming.IgnorePorts), maxEntries)
	if h := f.Incoming.Filter; h != nil {
		many("incoming.filter.ports", len(h.Ports), maxEntries)
		many("incoming.filter.allOf", len(h.AllOf), maxPatterns)
		many("incoming.filter.anyOf", len(h.AnyOf), maxPatterns)
	}
	if f.Outgoing.Filter != nil {
		many("outgoing.filter.entries", len(f.Outgoing.Filter.Entries), maxEntries)
	}
	many("outgoing.unixStreams", len(f.Outgoing.UnixStreams), maxEntries)
	if f.DNS.Filter != nil {
		many("dns.filter.entries", len(f.DNS.Filter.Entries), maxEntries)
	}
	many("env.include", len(f.Env.Include), maxEntries)
	many("env.exclude", len(f.Env.Exclude), maxEntries)
	many("files.readWrite", len(f.Files.ReadWrite), maxPatterns)
	return all
}

// mayGetTarget asks whether u has the right to get a target.
func (m *Manager) mayGetTarget(ctx context.Context, u user.Info, namespace, name string) (bool, error) {
	return m.mayTargets(ctx, u, "get", namespace, name)
}

// mayList asks whether u has the right to see all targets of a namespace.
func (m *Manager) mayList(ctx context.Context, u user.Info, namespace string) (bool, error) {
	return m.mayTargets(ctx, u, "list", namespace, "")
}

func (m *Manager) mayTargets(ctx context.Context, u user.Info, verb, namespace, name string) (bool, error) {
	decision, _, err := m.Authorizer.Authorize(ctx, authorizer.AttributesRecord{
		User: u, Verb: verb, Namespace: namespace, APIGroup: sessions.GroupName,
		APIVersion: sessions.GroupVersion.Version, Resource: "targets", Name: name, ResourceRequest: true,
	})
	if err != nil {
		return false, apierrors.NewInternalError(fmt.Errorf("asking what %s may do: %w", u.GetName(), err))
	}
	return decision == authorizer.DecisionAllow, nil
}

// textOf is an error with its hint.
func textOf(err error) string {
	var hint interface{ Hint() string }
	if errors.As(err, &hint) && hint.Hint() != "" {
		return err.Error() + ". " + hint.Hint()
	}
	return err.Error()
}
