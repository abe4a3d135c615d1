package image_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/mirrord-go/mirrord/test/cluster/image"
)

func files(t *testing.T) map[string]string {
	t.Helper()
	dir := t.TempDir()
	program, text := filepath.Join(dir, "program"), filepath.Join(dir, "text")
	if err := errors.Join(os.WriteFile(program, []byte("binary"), 0o700), os.WriteFile(text, []byte("hello"), 0o600)); err != nil {
		t.Fatal(err)
	}
	return map[string]string{"/opt/bin/program": program, "/etc/text": text}
}

func TestLayerHoldsFilesAndFolders(t *testing.T) {
	img, err := image.Build(image.Spec{Files: files(t), Entrypoint: []string{"/opt/bin/program", "serve"}, User: "1000"})
	if err != nil {
		t.Fatal(err)
	}
	layers, err := img.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("layers: %d, %v", len(layers), err)
	}
	content, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	type entry struct {
		Mode    int64
		Content string
	}
	got := map[string]entry{}
	for r := tar.NewReader(content); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.Gid != 0 || h.ModTime.Unix() != 0 {
			t.Errorf("%s: uid %d, gid %d, time %v", h.Name, h.Uid, h.Gid, h.ModTime)
		}
		got[h.Name] = entry{h.Mode, string(b)}
	}
	want := map[string]entry{
		"tmp/": {0o1777, ""}, "etc/": {0o755, ""}, "opt/": {0o755, ""}, "opt/bin/": {0o755, ""},
		"opt/bin/program": {0o755, "binary"}, "etc/text": {0o644, "hello"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"/opt/bin/program", "serve"}, config.Config.Entrypoint); diff != "" {
		t.Error(diff)
	}
	if config.Config.User != "1000" || config.OS != "linux" || config.Architecture != "amd64" {
		t.Errorf("config: %+v", config)
	}
}

func TestSameFilesSameBytes(t *testing.T) {
	var archives [2]bytes.Buffer
	for i := range archives {
		img, err := image.Build(image.Spec{Files: files(t)})
		if err != nil {
			t.Fatal(err)
		}
		if err := image.Write(&archives[i], "cluster.local/thing:1", img); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(archives[0].Bytes(), archives[1].Bytes()) {
		t.Error("two archives of the same files differ")
	}
}

func TestWriteFileIsReadable(t *testing.T) {
	img, err := image.Build(image.Spec{Files: files(t)})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "image.tar")
	if err := image.WriteFile(path, "cluster.local/thing:1", img); err != nil {
		t.Fatal(err)
	}
	back, err := tarball.ImageFromPath(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	want, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	got, err := back.ConfigName()
	if err != nil || got != want {
		t.Errorf("config %v, %v; want %v", got, err, want)
	}
}

func TestRefuses(t *testing.T) {
	for _, dst := range []string{"relative", "/", "/a/../b", "/a//b", "/a/"} {
		if _, err := image.Build(image.Spec{Files: map[string]string{dst: os.DevNull}}); err == nil {
			t.Errorf("path %q was accepted", dst)
		}
	}
	if _, err := image.Build(image.Spec{Files: map[string]string{"/a": filepath.Join(t.TempDir(), "absent")}}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent file: %v", err)
	}
	img, err := image.Build(image.Spec{})
	if err != nil {
		t.Fatal(err)
	}
	for _, tag := range []string{"", "workload", "UPPER:1", "a b:1"} {
		if err := image.Write(io.Discard, tag, img); err == nil {
			t.Errorf("tag %q was accepted", tag)
		}
	}
}
