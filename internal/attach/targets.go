package attach

import (
	"context"
	"errors"

	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/kube"
)

// Lister lists targets; *[kube.Cluster] implements it.
type Lister interface {
	Finder
	ListTargets(ctx context.Context, namespace string, kinds []config.TargetKind) ([]config.TargetPath, error)
	OperatorTargets(ctx context.Context, namespace string, kinds []config.TargetKind) ([]config.TargetPath, error)
}

// ListTargets returns what sessions could attach to, by the word of the operator where they
// would go through it ([UseOperator]). Of an operator that does not answer nothing is
// needed for a list: then the error says so beside what the user's own rights can find.
func ListTargets(ctx context.Context, l Lister, wanted *bool, namespace string, kinds []config.TargetKind) ([]config.TargetPath, error) {
	use, err := UseOperator(ctx, l, wanted)
	if _, down := errors.AsType[*kube.OperatorDownError](err); down && wanted == nil {
		paths, listErr := l.ListTargets(ctx, namespace, kinds)
		return paths, errors.Join(err, listErr)
	}
	switch {
	case err != nil:
		return nil, err
	case use:
		return l.OperatorTargets(ctx, namespace, kinds)
	}
	return l.ListTargets(ctx, namespace, kinds)
}
