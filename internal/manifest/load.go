package manifest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
)

// Load reads and checks a whole folder, and hands each object to accept, whose error is a
// problem of the object. It fails with [*FolderError] or [*InvalidError], or with the context.
func Load(ctx context.Context, g Group, dir string, accept func(Object) error) error {
	reader, err := NewReader(g)
	if err != nil {
		return err
	}
	switch err := reader.Folder(ctx, dir, false); {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return &FolderError{Dir: dir, Plural: g.plural, Err: err}
	}
	for _, object := range reader.Objects() {
		if err := accept(object); err != nil {
			reader.problems = append(reader.problems, object.Problem("", err.Error()))
		}
	}
	if problems := reader.Problems(); len(problems) > 0 {
		return &InvalidError{Dir: dir, Plural: g.plural, Problems: problems}
	}
	return nil
}

// FolderError says that the folder itself cannot be read.
type FolderError struct {
	Dir string
	// Plural is what the folder was to have: "profiles" or "policies".
	Plural string
	Err    error
}

func (e *FolderError) Error() string {
	err := e.Err
	if pathErr, ok := errors.AsType[*fs.PathError](err); ok {
		err = pathErr.Err
	}
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Sprintf("the folder of %s %q does not exist", e.Plural, e.Dir)
	}
	return fmt.Sprintf("the folder of %s %q cannot be read: %v", e.Plural, e.Dir, err)
}

// Unwrap returns why it cannot be read.
func (e *FolderError) Unwrap() error { return e.Err }

// Hint says what the folder must be.
func (e *FolderError) Hint() string {
	return fmt.Sprintf("--%[1]s-dir names a folder with manifests of %[1]s; without it, %[1]s come from the cluster.", e.Plural)
}

// InvalidError says that manifests of a folder are wrong, and names every problem.
type InvalidError struct {
	Dir string
	// Plural is what the folder has: "profiles" or "policies".
	Plural string
	// Problems are in the order of the files and lines; there is at least one.
	Problems []Problem
}

func (e *InvalidError) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// Hint says that a cluster would refuse the manifests too.
func (e *InvalidError) Hint() string {
	return fmt.Sprintf("A cluster would refuse these manifests as well: repair them before %s of the folder are used.\n"+
		"A field or value that is meant for a newer version needs a newer mirrord.", e.Plural)
}
