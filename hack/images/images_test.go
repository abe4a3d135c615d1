package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// project makes a folder with programs of the real names that compile in no time.
func project(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	write := func(file, text string) {
		file = filepath.Join(dir, file)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("go.mod", "module github.com/mirrord-go/mirrord\n\ngo 1.26.0\n")
	write("internal/version/version.go", "package version\n\nvar version string\n\nfunc String() string { return version }\n")
	for _, p := range programs {
		write("cmd/"+p.name+"/main.go", "package main\n\nimport \"github.com/mirrord-go/mirrord/internal/version\"\n\nfunc main() { println(version.String()) }\n")
	}
	return dir
}

func TestPush(t *testing.T) {
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	place := strings.TrimPrefix(server.URL, "http://") + "/tools"
	source := project(t)
	var first, second bytes.Buffer
	for _, out := range []*bytes.Buffer{&first, &second} {
		if err := run(t.Context(), []string{"-source", source, "-version", "v1.2.3", "-push", place}, out); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(first.String(), second.String()); diff != "" {
		t.Errorf("made twice, the images differ:\n%s", diff)
	}
	for _, p := range programs {
		tag, err := name.NewTag(place + "/" + p.name + ":1.2.3")
		if err != nil {
			t.Fatal(err)
		}
		index, err := remote.Index(tag)
		if err != nil {
			t.Fatal(err)
		}
		if err := validate.Index(index); err != nil {
			t.Error(err)
		}
		for _, architecture := range []string{"amd64", "arm64"} {
			image, err := remote.Image(tag, remote.WithPlatform(v1.Platform{OS: "linux", Architecture: architecture}))
			if err != nil {
				t.Fatalf("%s for %s: %v", p.name, architecture, err)
			}
			check(t, image, p, architecture)
		}
	}
}

// check looks into an image: one program, nothing else.
func check(t *testing.T, image v1.Image, p program, architecture string) {
	t.Helper()
	if err := validate.Image(image); err != nil {
		t.Error(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if config.Architecture != architecture || config.Config.User != p.user || len(config.Config.Entrypoint) != 1 || config.Config.Entrypoint[0] != "/"+p.name {
		t.Errorf("config of %s for %s: %+v", p.name, architecture, config)
	}
	layers, err := image.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("%d layers, %v", len(layers), err)
	}
	content, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	var files []string
	for archive := tar.NewReader(content); ; {
		header, err := archive.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, header.Name)
		if header.Mode != 0o555 {
			t.Errorf("%s has the mode %o", header.Name, header.Mode)
		}
	}
	if diff := cmp.Diff([]string{p.name}, files); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

func TestArchives(t *testing.T) {
	source := project(t)
	sums := map[string][32]byte{}
	for range 2 {
		out := t.TempDir()
		if err := run(t.Context(), []string{"-source", source, "-version", "v1", "-out", out}, io.Discard); err != nil {
			t.Fatal(err)
		}
		for _, p := range programs {
			for _, architecture := range []string{"amd64", "arm64"} {
				file := filepath.Join(out, p.name+"-linux-"+architecture+".tar")
				content, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				key := p.name + architecture
				if sum, made := sums[key]; made && sum != sha256.Sum256(content) {
					t.Errorf("%s made twice is not the same", key)
				}
				sums[key] = sha256.Sum256(content)
				tag, err := name.NewTag("mirrord.local/" + p.name + ":1")
				if err != nil {
					t.Fatal(err)
				}
				image, err := tarball.ImageFromPath(file, &tag) // as docker load reads it
				if err != nil {
					t.Fatal(err)
				}
				check(t, image, p, architecture)
			}
		}
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{{}, {"-out", "x", "more"}, {"-out", t.TempDir(), "-platforms", "plan9/mips"}, {"-bad"}} {
		if err := run(t.Context(), args, io.Discard); err == nil {
			t.Errorf("%q is accepted", args)
		}
	}
}
