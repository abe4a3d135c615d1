package lifecycle

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/mirrord-go/mirrord/test/cluster/image"
	"github.com/mirrord-go/mirrord/test/cluster/internal/layout"
	"github.com/mirrord-go/mirrord/test/cluster/internal/machine"
)

// ErrNotRunning says that there is no cluster to work on.
var ErrNotRunning = errors.New("the cluster does not run: \"cluster up\" first")

// LoadImage gives the node of the cluster in the folder state an image, which pods use by its tag with
// imagePullPolicy Never or IfNotPresent. It replaces an image of the same tag, and does nothing when the node has the same
// image already, which it reports.
func LoadImage(ctx context.Context, state, tag string, img v1.Image) (loaded bool, err error) {
	record, ok, err := layout.ReadRecord(state)
	if err != nil {
		return false, err
	}
	if !ok || !alive(record) {
		return false, ErrNotRunning
	}
	digest, err := img.Digest()
	if err != nil {
		return false, fmt.Errorf("image %s: %w", tag, err)
	}
	images := filepath.Join(state, "images")
	release, err := machine.Lock(images, nil)
	if err != nil {
		return false, err
	}
	defer release()
	known, err := readLoaded(images)
	if err != nil {
		return false, err
	}
	if known[tag] == digest.String() {
		return false, nil
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(image.Write(w, tag, img)) }()
	err = InNode(ctx, record, r, "ctr", "--namespace", "k8s.io", "images", "import", "--all-platforms", "-")
	r.Close() // ends the writer, whatever it still had
	if err != nil {
		return false, fmt.Errorf("image %s: %w", tag, err)
	}
	known[tag] = digest.String()
	return true, writeLoaded(images, known)
}

// InNode runs a program in the node's namespaces and waits for it. The error holds its output.
func InNode(ctx context.Context, record layout.Record, stdin io.Reader, args ...string) error {
	cmd := exec.CommandContext(ctx, "nsenter", NodeArguments(record, args...)...)
	var output bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &output, &output
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", args[0], err, bytes.TrimSpace(output.Bytes()))
	}
	return nil
}

// NodeArguments are the arguments with which nsenter runs a program in the node.
func NodeArguments(record layout.Record, args ...string) []string {
	return append([]string{"--target", strconv.Itoa(record.PID), "--mount", "--net", "--uts", "--ipc", "--pid", "--"}, args...)
}

// readLoaded returns the digests of the loaded images by tag.
func readLoaded(dir string) (map[string]string, error) {
	known := map[string]string{}
	b, err := os.ReadFile(filepath.Join(dir, "loaded.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return known, nil
	}
	if err != nil {
		return nil, err
	}
	return known, json.Unmarshal(b, &known)
}

func writeLoaded(dir string, known map[string]string) error {
	b, err := json.Marshal(known)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "loaded.json"), b, 0o644)
}
