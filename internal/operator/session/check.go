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
	if err := features.Check(s.Spec.Features); err != nil {
		all = append(all, field.Invalid(spec.Child("features"), field.OmitValueType{}, err.Error()))
	}
	all = append(all, bounded(spec, &s.Spec)...)
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
	f := &s.Features
	lists := map[string]int{
		"incoming.ports": len(f.Incoming.Ports), "incoming.ignorePorts": len(f.Incoming.IgnorePorts),
		"outgoing.unixStreams": len(f.Outgoing.UnixStreams), "env.include": len(f.Env.Include), "env.exclude": len(f.Env.Exclude),
	}
	if f.Outgoing.Filter != nil {
		lists["outgoing.filter.entries"] = len(f.Outgoing.Filter.Entries)
	}
	if f.DNS.Filter != nil {
		lists["dns.filter.entries"] = len(f.DNS.Filter.Entries)
	}
	if h := f.Incoming.Filter; h != nil {
		lists["incoming.filter"] = len(h.AllOf) + len(h.AnyOf) + len(h.Ports)
	}
	for name, n := range lists {
		if n > maxEntries {
			all = append(all, field.TooMany(at.Child("features", name), n, maxEntries))
		}
	}
	return all
}

// mayGetTarget asks whether u has the right to get a target.
func (m *Manager) mayGetTarget(ctx context.Context, u user.Info, namespace, name string) (bool, error) {
	decision, _, err := m.Authorizer.Authorize(ctx, authorizer.AttributesRecord{
		User: u, Verb: "get", Namespace: namespace, APIGroup: sessions.GroupName,
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
