package dirstore

import "github.com/mirrord-go/mirrord/internal/manifest"

// FolderError says that the folder itself cannot be read.
type FolderError = manifest.FolderError

// InvalidError says that manifests of a folder are wrong, and names every problem.
type InvalidError = manifest.InvalidError

// Problem is one thing that is wrong in a folder.
type Problem = manifest.Problem
