package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// program is what an image is made of.
type program struct {
	name, title string
	// user is uid:gid.
	user string
}

// programs are those with an image.
var programs = []program{
	{"mirrord-operator", "The operator of mirrord", "65532:65532"},
	// The agent's pod says as whom it runs: root to enter a target's network, nobody without one.
	{"mirrord-agent", "The agent of mirrord", "0:0"},
}

// epoch is every file's and image's date: a date of today would change the digest.
var epoch = time.Unix(0, 0).UTC()

// build packs a compiled program.
func build(p program, architecture, version, file string) (v1.Image, error) {
	layer, err := layerOf(p.name, file)
	if err != nil {
		return nil, fmt.Errorf("packing: %w", err)
	}
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	if image, err = mutate.AppendLayers(image, layer); err != nil {
		return nil, fmt.Errorf("packing: %w", err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("packing: %w", err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Created = "linux", architecture, v1.Time{Time: epoch}
	config.Config = v1.Config{
		Entrypoint: []string{"/" + p.name}, User: p.user, WorkingDir: "/",
		Labels: map[string]string{
			"org.opencontainers.image.title":       p.name,
			"org.opencontainers.image.description": p.title,
			"org.opencontainers.image.version":     version,
			"org.opencontainers.image.licenses":    "Apache-2.0",
		},
	}
	return mutate.ConfigFile(image, config)
}

// layerOf is a layer with the one file.
func layerOf(name, file string) (v1.Layer, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var buffer bytes.Buffer
	archive := tar.NewWriter(&buffer)
	header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o555, Size: int64(len(content)), ModTime: epoch, Format: tar.FormatUSTAR}
	if err := archive.WriteHeader(header); err != nil {
		return nil, err
	}
	if _, err := archive.Write(content); err != nil {
		return nil, err
	}
	if err := archive.Close(); err != nil {
		return nil, err
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buffer.Bytes())), nil }
	return tarball.LayerFromOpener(open, tarball.WithMediaType(types.OCILayer), tarball.WithCompressionLevel(gzip.BestCompression), tarball.WithCompressedCaching)
}

// writeArchive writes the image as a file that is complete or absent. It is an archive in the layout
// of OCI, with the older list of docker beside: everything that reads images reads it.
func writeArchive(file, reference string, image v1.Image) (err error) {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	temporary, err := os.CreateTemp(filepath.Dir(file), ".image-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(temporary.Name())
		}
	}()
	if err := archiveTo(temporary, reference, image); err != nil {
		temporary.Close()
		return fmt.Errorf("writing %s: %w", file, err)
	}
	if err := errors.Join(temporary.Chmod(0o644), temporary.Close()); err != nil {
		return err
	}
	return os.Rename(temporary.Name(), file)
}

func archiveTo(w io.Writer, reference string, image v1.Image) error {
	tag, err := name.NewTag(reference)
	if err != nil {
		return err
	}
	manifest, err := image.RawManifest()
	if err != nil {
		return err
	}
	config, err := image.RawConfigFile()
	if err != nil {
		return err
	}
	parsed, err := image.Manifest()
	if err != nil {
		return err
	}
	digest, err := image.Digest()
	if err != nil {
		return err
	}
	out := &archiver{w: tar.NewWriter(w)}
	out.file("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	out.json("index.json", v1.IndexManifest{
		SchemaVersion: 2, MediaType: types.OCIImageIndex,
		Manifests: []v1.Descriptor{{
			MediaType: types.OCIManifestSchema1, Digest: digest, Size: int64(len(manifest)),
			Annotations: map[string]string{
				"org.opencontainers.image.ref.name": tag.TagStr(),
				"io.containerd.image.name":          tag.Name(),
			},
		}},
	})
	layers, err := image.Layers()
	if err != nil {
		return err
	}
	var paths []string
	out.file(blob(digest), manifest)
	out.file(blob(parsed.Config.Digest), config)
	for i, layer := range layers {
		compressed, err := layer.Compressed()
		if err != nil {
			return err
		}
		content, err := io.ReadAll(compressed)
		compressed.Close()
		if err != nil {
			return err
		}
		paths = append(paths, blob(parsed.Layers[i].Digest))
		out.file(paths[i], content)
	}
	out.json("manifest.json", []map[string]any{{
		"Config": blob(parsed.Config.Digest), "RepoTags": []string{tag.Name()}, "Layers": paths,
	}})
	return errors.Join(out.err, out.w.Close())
}

func blob(h v1.Hash) string { return "blobs/" + h.Algorithm + "/" + h.Hex }

// archiver writes files until the first error.
type archiver struct {
	w   *tar.Writer
	err error
}

func (a *archiver) file(name string, content []byte) {
	if a.err != nil {
		return
	}
	a.err = a.w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content)), ModTime: epoch})
	if a.err == nil {
		_, a.err = a.w.Write(content)
	}
}

func (a *archiver) json(name string, value any) {
	b, err := json.Marshal(value)
	a.err = errors.Join(a.err, err)
	a.file(name, b)
}

// push sends the images as one for all platforms, and returns its digest. Who may push is said by the
// docker configuration of the user.
func push(ctx context.Context, reference string, images []v1.Image, insecure bool) (v1.Hash, error) {
	var how []name.Option
	if insecure {
		how = append(how, name.Insecure)
	}
	tag, err := name.NewTag(reference, how...)
	if err != nil {
		return v1.Hash{}, err
	}
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, image := range images {
		config, err := image.ConfigFile()
		if err != nil {
			return v1.Hash{}, err
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add:        image,
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: config.OS, Architecture: config.Architecture}},
		})
	}
	if err := remote.WriteIndex(tag, index, remote.WithAuthFromKeychain(authn.DefaultKeychain), remote.WithContext(ctx)); err != nil {
		return v1.Hash{}, fmt.Errorf("sending %s: %w", reference, err)
	}
	return index.Digest()
}
