package lifecycle

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mirrord-go/mirrord/test/cluster/image"
	"github.com/mirrord-go/mirrord/test/cluster/internal/layout"
)

func TestAliveKnowsTheProcess(t *testing.T) {
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	started, err := startTime(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	record := layout.Record{PID: cmd.Process.Pid, Started: started}
	if !alive(record) {
		t.Error("a running process is not alive")
	}
	if alive(layout.Record{PID: record.PID, Started: started + 1}) {
		t.Error("another process of the same number is alive")
	}
	if err := kill(t.Context(), layout.Record{PID: record.PID, Started: started + 1}); err != nil || !alive(record) {
		t.Errorf("another process of the same number was killed: %v", err)
	}
	if err := kill(t.Context(), record); err != nil {
		t.Error(err)
	}
	if alive(record) { // nobody has collected it yet
		t.Error("a zombie is alive")
	}
	cmd.Wait() // killed
	if alive(record) || alive(layout.Record{}) {
		t.Error("no process is alive")
	}
}

func TestTails(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(
		os.WriteFile(filepath.Join(dir, "long.log"), []byte("first "+strings.Repeat("x", 5000)+"\nlast line\n"), 0o600),
		os.WriteFile(filepath.Join(dir, "short.log"), []byte("only line\n"), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	got := tails(dir)
	if want := "--- end of long.log\nlast line\n--- end of short.log\nonly line\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := tails(t.TempDir()); got != "" {
		t.Errorf("no logs: %q", got)
	}
}

func TestLoadImageWithoutCluster(t *testing.T) {
	img, err := image.Build(image.Spec{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := LoadImage(t.Context(), t.TempDir(), "cluster.local/a:1", img); !errors.Is(err, ErrNotRunning) {
		t.Errorf("%v, want %v", err, ErrNotRunning)
	}
}
