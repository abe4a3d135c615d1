// Package image makes container images out of files, without a container engine.
//
// An image has one layer that holds the given files, their folders and an empty /tmp, for everyone readable, owned by
// root, dated 1970: the same files give the same bytes, and so the same digest, on every machine.
package image

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Spec describes an image.
type Spec struct {
	// Files maps absolute paths in the image to files of this machine. Executable files stay executable.
	Files map[string]string
	// Entrypoint is the program and its first arguments; empty leaves the choice to the pod.
	Entrypoint []string
	// Env are KEY=VALUE settings; none means PATH=/bin.
	Env []string
	// User is a numeric uid or uid:gid; empty means root.
	User string
	// Architecture is a GOARCH; empty means amd64.
	Architecture string
}

var epoch = time.Unix(0, 0).UTC()

// Build makes the image. It reads every file into memory.
func Build(s Spec) (v1.Image, error) {
	layer, err := layerOf(s.Files)
	if err != nil {
		return nil, err
	}
	img, err := mutate.AppendLayers(empty.Image, static.NewLayer(layer, types.DockerUncompressedLayer))
	if err != nil {
		return nil, fmt.Errorf("image: %w", err)
	}
	file, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("image: %w", err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Created = "linux", s.Architecture, v1.Time{Time: epoch}
	if file.Architecture == "" {
		file.Architecture = "amd64"
	}
	file.Config = v1.Config{Entrypoint: s.Entrypoint, Env: s.Env, User: s.User, WorkingDir: "/"}
	if len(s.Env) == 0 {
		file.Config.Env = []string{"PATH=/bin"}
	}
	if img, err = mutate.ConfigFile(img, file); err != nil {
		return nil, fmt.Errorf("image: %w", err)
	}
	return img, nil
}

// Write writes the image as an archive that "ctr images import" and "docker load" read. The tag is a full image name
// such as "cluster.local/workload:1".
func Write(w io.Writer, tag string, img v1.Image) error {
	ref, err := name.NewTag(tag, name.StrictValidation)
	if err != nil {
		return fmt.Errorf("image name %q: %w; it needs a host, a name and a tag, such as cluster.local/workload:1", tag, err)
	}
	if err := tarball.Write(ref, img, w); err != nil {
		return fmt.Errorf("image %s: %w", tag, err)
	}
	return nil
}

// WriteFile is Write into a file, which is complete or absent.
func WriteFile(file, tag string, img v1.Image) error {
	f, err := os.Create(file + ".new")
	if err != nil {
		return fmt.Errorf("image %s: %w", tag, err)
	}
	defer os.Remove(f.Name()) // nothing to remove after the rename
	if err := Write(f, tag, img); err != nil {
		f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("image %s: %w", tag, err)
	}
	if err := os.Rename(f.Name(), file); err != nil {
		return fmt.Errorf("image %s: %w", tag, err)
	}
	return nil
}

// layerOf returns the files as a tar archive with every folder before what is in it.
func layerOf(files map[string]string) ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	made := map[string]bool{"/": true}
	var mkdir func(dir string, mode int64) error
	mkdir = func(dir string, mode int64) error {
		if made[dir] {
			return nil
		}
		if err := mkdir(path.Dir(dir), 0o755); err != nil {
			return err
		}
		made[dir] = true
		return w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir[1:] + "/", Mode: mode, ModTime: epoch})
	}
	if err := mkdir("/tmp", 0o1777); err != nil {
		return nil, fmt.Errorf("image layer: %w", err)
	}
	for _, dst := range slices.Sorted(maps.Keys(files)) {
		if !path.IsAbs(dst) || path.Clean(dst) != dst || dst == "/" {
			return nil, fmt.Errorf("image layer: %q is not the absolute, plain path of a file", dst)
		}
		if err := mkdir(path.Dir(dst), 0o755); err != nil {
			return nil, fmt.Errorf("image layer: %w", err)
		}
		if err := addFile(w, dst, files[dst]); err != nil {
			return nil, fmt.Errorf("image layer: %s: %w", dst, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("image layer: %w", err)
	}
	return buf.Bytes(), nil
}

func addFile(w *tar.Writer, dst, src string) error {
	content, err := os.ReadFile(src)
	if err != nil {
		return err
	}
	info, err := os.Stat(src)
	if err != nil {
		return err
	}
	mode := int64(0o644)
	if info.Mode()&0o111 != 0 {
		mode = 0o755
	}
	header := &tar.Header{Typeflag: tar.TypeReg, Name: strings.TrimPrefix(dst, "/"), Mode: mode, Size: int64(len(content)), ModTime: epoch}
	if err := w.WriteHeader(header); err != nil {
		return err
	}
	_, err = w.Write(content)
	return err
}
