package dirstore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/mirrord-go/mirrord/internal/manifest"
)

// FolderError says that the folder itself cannot be read.
type FolderError struct {
	Dir string
	Err error
}

func (e *FolderError) Error() string {
	err := e.Err
	if pathErr, ok := errors.AsType[*os.PathError](err); ok {
		err = pathErr.Err
	}
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Sprintf("the folder of profiles %q does not exist", e.Dir)
	}
	return fmt.Sprintf("the folder of profiles %q cannot be read: %v", e.Dir, err)
}

// Unwrap returns why it cannot be read.
func (e *FolderError) Unwrap() error { return e.Err }

// Hint says what the folder must be.
func (e *FolderError) Hint() string {
	return "--profiles-dir names a folder with profile manifests; without it, profiles come from the cluster."
}

// Problem is one thing that is wrong in a folder.
type Problem = manifest.Problem

// InvalidError says that manifests of a folder are wrong, and names every problem.
type InvalidError struct {
	Dir string
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
	return "A cluster would refuse these manifests as well: repair them before profiles of the folder are used.\n" +
		"A field or value that is meant for a newer version needs a newer mirrord."
}
