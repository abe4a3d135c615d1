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
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mirrord-go/mirrord/internal/profile"
)

// MaxFileSize is the size in bytes up to which files are read. A cluster does not store an
// object that is as large.
const MaxFileSize = 4 << 20

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
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, &FolderError{Dir: s.dir, Err: err}
	}
	schemas, err := loadSchemas()
	if err != nil {
		return nil, err
	}
	c := checker{schemas: schemas, first: map[profile.Ref]string{}}
	for _, entry := range entries {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if name := filepath.Join(s.dir, entry.Name()); isManifest(name) {
			c.file(name)
		}
	}
	if len(c.problems) > 0 {
		slices.SortStableFunc(c.problems, func(a, b Problem) int {
			return cmp.Or(strings.Compare(a.File, b.File), a.Line-b.Line)
		})
		return nil, &InvalidError{Dir: s.dir, Problems: c.problems}
	}
	slices.SortFunc(c.profiles, func(a, b profile.Profile) int { return profile.Compare(a.Ref, b.Ref) })
	return c.profiles, nil
}

// isManifest reports whether kubectl would read the file.
func isManifest(name string) bool {
	switch filepath.Ext(name) {
	case ".yaml", ".yml", ".json":
	default:
		return false
	}
	info, err := os.Stat(name) // follows links, as mounted ConfigMaps have them
	return err != nil || !info.IsDir()
}

// checker collects the profiles and the problems of a folder.
type checker struct {
	schemas  schemas
	profiles []profile.Profile
	first    map[profile.Ref]string // where each profile was seen first
	problems []Problem
}

func (c *checker) report(file string, line int, format string, args ...any) {
	c.problems = append(c.problems, Problem{File: file, Line: line, Message: fmt.Sprintf(format, args...)})
}

func (c *checker) file(name string) {
	data, err := readFile(name)
	if err != nil {
		if pathErr, ok := errors.AsType[*os.PathError](err); ok {
			err = pathErr.Err // the problem names the file already
		}
		c.report(name, 0, "%v", err)
		return
	}
	documents, problems := parse(data)
	for _, p := range problems {
		p.File = name
		c.problems = append(c.problems, p)
	}
	for _, d := range documents {
		c.object(name, d, "", d.object)
	}
}

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxFileSize+1))
	if err != nil {
		return nil, err
	}
	if len(data) > MaxFileSize {
		return nil, fmt.Errorf("the file is larger than %d MiB", MaxFileSize>>20)
	}
	return data, nil
}

// object checks one object of a document; at is its path there, empty for the document itself.
func (c *checker) object(file string, d document, at string, value any) {
	object, ok := value.(map[string]any)
	if !ok {
		c.report(file, d.line(at), "%s is no Kubernetes object", orDocument(at))
		return
	}
	apiVersion, _ := object["apiVersion"].(string)
	kind, _ := object["kind"].(string)
	if apiVersion == "" || kind == "" {
		c.report(file, d.line(at), "%s is no Kubernetes object: it needs an apiVersion and a kind", orDocument(at))
		return
	}
	if items, ok := object["items"].([]any); ok && isList(apiVersion, kind) {
		for i, item := range items {
			c.object(file, d, join(at, fmt.Sprintf("items[%d]", i)), item)
		}
		return
	}
	schema, found, err := c.schemas.find(apiVersion, kind)
	switch {
	case err != nil:
		c.report(file, d.line(at), "%v", err)
		return
	case !found:
		return // not ours
	}
	problems := schema.check(object)
	for _, p := range problems {
		path := join(at, p.path)
		c.report(file, d.line(path), "%s: %s", path, p.message)
	}
	if len(problems) > 0 {
		return
	}
	p, err := profile.FromObject(object)
	if err != nil {
		c.report(file, d.line(at), "%v", err)
		return
	}
	p.Source = fmt.Sprintf("%s:%d", file, d.line(at))
	if first, seen := c.first[p.Ref]; seen {
		c.report(file, d.line(join(at, "metadata.name")), "%s %q is defined a second time; the first is at %s", p.Ref.Kind(), p.Ref, first)
		return
	}
	c.first[p.Ref] = p.Source
	c.profiles = append(c.profiles, *p)
}

func orDocument(at string) string {
	if at == "" {
		return "the document"
	}
	return at
}

// join appends a path to another; either may be empty.
func join(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "." + b
}

func isList(apiVersion, kind string) bool {
	return apiVersion == "v1" && kind == "List" ||
		isProfileGroup(apiVersion) && strings.HasSuffix(kind, "ProfileList")
}
