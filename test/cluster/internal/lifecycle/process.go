package lifecycle

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/mirrord-go/mirrord/test/cluster/internal/layout"
)

// alive reports whether the node's first process runs: not another one of its number, and not a zombie.
func alive(record layout.Record) bool {
	if record.PID == 0 {
		return false
	}
	state, started, err := readStat(record.PID)
	return err == nil && started == record.Started && state != "Z" && state != "X"
}

// startTime is when the process started, in clock ticks since boot.
func startTime(pid int) (uint64, error) {
	_, started, err := readStat(pid)
	return started, err
}

// readStat returns the fields 3 and 22 of /proc/pid/stat, see proc_pid_stat(5).
func readStat(pid int) (state string, started uint64, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", 0, err
	}
	// The name in field 2 may hold anything, also parentheses; the last one ends it.
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 20 {
		return "", 0, fmt.Errorf("/proc/%d/stat: %d fields", pid, len(fields))
	}
	started, err = strconv.ParseUint(fields[19], 10, 64)
	return fields[0], started, err
}

// tails returns the end of every log file in dir, for the message of a start that failed.
func tails(dir string) string {
	logs, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil {
		return err.Error()
	}
	var b strings.Builder
	for _, path := range logs {
		text, err := tail(path, 2048)
		if err != nil {
			text = err.Error()
		}
		fmt.Fprintf(&b, "--- end of %s\n%s\n", filepath.Base(path), text)
	}
	return b.String()
}

// tail returns the last lines of the file, at most limit bytes.
func tail(path string, limit int64) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return "", err
	}
	if _, err := f.Seek(max(0, size-limit), io.SeekStart); err != nil {
		return "", err
	}
	b, err := io.ReadAll(io.LimitReader(f, limit))
	if err != nil {
		return "", err
	}
	if size > limit {
		_, b, _ = bytes.Cut(b, []byte("\n"))
	}
	return strings.TrimRight(string(b), "\n"), nil
}
