// Package dirstore keeps profiles in a folder of manifests, for those who have no cluster at
// hand or want to try a profile before it is in one.
//
// The folder is read as "kubectl apply -f FOLDER" reads it: every .yaml, .yml and .json file
// directly in it, each with any number of documents. Profiles are checked against the same
// schema as in the cluster, unknown fields included; objects of other groups are ignored.
// The folder is checked as a whole: all problems of all files are reported together, as an
// [*InvalidError].
package dirstore

import (
	"context"
	"slices"

	"github.com/mirrord-go/mirrord/internal/manifest"
	"github.com/mirrord-go/mirrord/internal/profile"
)

// Store is a [profile.Store] of one folder. It reads the folder anew at every call.
type Store struct {
	dir string
}

var _ profile.Store = (*Store)(nil)

// New returns the store of a folder, without reading it.
func New(dir string) *Store { return &Store{dir: dir} }

// Get returns the profile that ref names. It fails with [*FolderError], [*InvalidError] or
// [*profile.NotFoundError].
func (s *Store) Get(ctx context.Context, ref profile.Ref) (*profile.Profile, error) {
	profiles, err := s.load(ctx)
	if err != nil {
		return nil, err
	}
	refs := make([]profile.Ref, len(profiles))
	for i := range profiles {
		if profiles[i].Ref == ref {
			return &profiles[i], nil
		}
		refs[i] = profiles[i].Ref
	}
	return nil, &profile.NotFoundError{Ref: ref, Near: profile.Near(ref, refs), Folder: s.dir}
}

// List returns the folder's profiles that serve the namespace, or all of them when it is
// empty. It fails with [*FolderError] or [*InvalidError].
func (s *Store) List(ctx context.Context, namespace string) ([]profile.Profile, error) {
	profiles, err := s.load(ctx)
	if err != nil {
		return nil, err
	}
	if namespace != "" {
		profiles = slices.DeleteFunc(profiles, func(p profile.Profile) bool {
			return p.Ref.Namespace != "" && p.Ref.Namespace != namespace
		})
	}
	return profiles, nil
}

// load reads and checks the whole folder.
func (s *Store) load(ctx context.Context) ([]profile.Profile, error) {
	profiles := []profile.Profile{}
	err := manifest.Load(ctx, manifest.Profiles(), s.dir, func(o manifest.Object) error {
		p, err := profile.FromObject(o.Value)
		if err == nil {
			p.Source = o.Source()
			profiles = append(profiles, *p)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(profiles, func(a, b profile.Profile) int { return profile.Compare(a.Ref, b.Ref) })
	return profiles, nil
}
