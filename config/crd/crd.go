// Package crd holds the CustomResourceDefinitions that are generated from the types in api/,
// for the command that prints them and for the checks that work without a cluster.
package crd

import (
	"bytes"
	"embed"
	"fmt"
	"io/fs"
)

//go:embed *.yaml
var files embed.FS

// The names of the files.
const (
	ClusterPolicies = "policies.mirrord.metalbear.co_mirrordclusterpolicies.yaml"
	Policies        = "policies.mirrord.metalbear.co_mirrordpolicies.yaml"
	ClusterProfiles = "profiles.mirrord.metalbear.co_mirrordclusterprofiles.yaml"
	Profiles        = "profiles.mirrord.metalbear.co_mirrordprofiles.yaml"
)

// File returns the definition in one of the files, as YAML.
func File(name string) ([]byte, error) {
	data, err := files.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("no definition is called %q: %w", name, err)
	}
	return data, nil
}

// All returns all definitions as one stream of YAML documents, in the order of their names.
func All() ([]byte, error) {
	names, err := fs.Glob(files, "*.yaml")
	if err != nil {
		return nil, fmt.Errorf("listing the definitions: %w", err)
	}
	var all bytes.Buffer
	for _, name := range names {
		data, err := File(name)
		if err != nil {
			return nil, err
		}
		if !bytes.HasPrefix(data, []byte("---\n")) {
			all.WriteString("---\n")
		}
		all.Write(data)
	}
	return all.Bytes(), nil
}
