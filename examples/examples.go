// Package examples holds the documentation's examples, so that the program can show them:
// `mirrord demo` runs with these profiles.
package examples

import "embed"

// Profiles are the manifests in the folder profiles.
//
//go:embed profiles/*.yaml
var Profiles embed.FS
