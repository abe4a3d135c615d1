package target

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// ErrNotFound says that no running process belongs to the selected pod or container.
var ErrNotFound = errors.New("no process of the target runs on this node")

// Find returns the first process of the selected container: its init. The container ID
// decides; without one, or when no process bears it, the pod's UID does, and then the
// oldest process that is not the pod's pause container is taken, with a warning in the log
// when that is second choice. An empty procRoot means /proc.
//
// The caller closes the process.
func Find(log *slog.Logger, procRoot string, s Selector) (*Process, error) {
	s, err := s.normalize()
	if err != nil {
		return nil, err
	}
	if procRoot == "" {
		procRoot = defaultProc
	}
	byContainer, byPod, err := scan(procRoot, s)
	if err != nil {
		return nil, err
	}
	found := byContainer
	if len(found) == 0 && len(byPod) > 0 {
		if s.ContainerID != "" {
			log.Warn("no process bears the container's ID, taking one of its pod", "container", s.ContainerID, "pod", s.PodUID)
		}
		found = byPod
		if apps := slices.DeleteFunc(slices.Clone(byPod), func(c candidate) bool { return c.comm == "pause" }); len(apps) > 0 {
			found = apps
		}
	}
	// A candidate may end before it is opened; the next one is then the container's oldest.
	for _, c := range rank(found) {
		p, err := Open(procRoot, c.pid)
		if err == nil {
			return p, nil
		}
		log.Debug("a process of the target could not be opened", "pid", c.pid, "err", err)
	}
	return nil, fmt.Errorf("%w: pod UID %q, container %q: has it ended, or is the agent without the host's process IDs (hostPID)?",
		ErrNotFound, s.PodUID, s.ContainerID)
}

type candidate struct {
	pid, ppid int
	start     uint64 // clock ticks since boot
	comm      string
}

// scan sorts all processes into those of the container and those of its pod.
func scan(procRoot string, s Selector) (byContainer, byPod []candidate, err error) {
	d, err := os.Open(procRoot)
	if err != nil {
		return nil, nil, fmt.Errorf("looking for the target's process: %w", err)
	}
	names, err := d.Readdirnames(-1)
	_ = d.Close()
	if err != nil {
		return nil, nil, fmt.Errorf("looking for the target's process: %w", err)
	}
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil || pid <= 0 {
			continue
		}
		// Processes end while we read; those that did are no candidates.
		cgroup, err := readSmall(filepath.Join(procRoot, name, "cgroup"), maxProcFile)
		if err != nil {
			continue
		}
		m := s.member(string(cgroup))
		if !m.pod && !m.container {
			continue
		}
		stat, err := readSmall(filepath.Join(procRoot, name, "stat"), maxProcFile)
		if err != nil {
			continue
		}
		st, err := parseStat(string(stat))
		if err != nil || st.state == 'Z' || st.state == 'X' {
			continue
		}
		c := candidate{pid: pid, ppid: st.ppid, start: st.start, comm: st.comm}
		if m.container {
			byContainer = append(byContainer, c)
		}
		if m.pod {
			byPod = append(byPod, c)
		}
	}
	return byContainer, byPod, nil
}

// rank puts a container's init first: the oldest of the processes whose parent is outside
// (what `kubectl exec` starts has its parent outside too, but came later).
func rank(cs []candidate) []candidate {
	inside := map[int]bool{}
	for _, c := range cs {
		inside[c.pid] = true
	}
	outer := func(c candidate) int {
		if inside[c.ppid] {
			return 1
		}
		return 0
	}
	return slices.SortedFunc(slices.Values(cs), func(a, b candidate) int {
		return cmp.Or(cmp.Compare(outer(a), outer(b)), cmp.Compare(a.start, b.start), cmp.Compare(a.pid, b.pid))
	})
}

type stat struct {
	pid, ppid int
	comm      string
	state     byte
	start     uint64
}

// parseStat reads a /proc/PID/stat, proc_pid_stat(5). The program's name may contain
// anything, parentheses and newlines too.
func parseStat(s string) (stat, error) {
	open, end := strings.IndexByte(s, '('), strings.LastIndexByte(s, ')')
	if open < 1 || end < open {
		return stat{}, errors.New("malformed stat: no program name")
	}
	pid, err := strconv.Atoi(strings.TrimSpace(s[:open]))
	if err != nil {
		return stat{}, fmt.Errorf("malformed stat: %w", err)
	}
	f := strings.Fields(s[end+1:])
	if len(f) < 20 || len(f[0]) != 1 {
		return stat{}, errors.New("malformed stat: too few fields")
	}
	ppid, err := strconv.Atoi(f[1])
	if err != nil {
		return stat{}, fmt.Errorf("malformed stat: %w", err)
	}
	start, err := strconv.ParseUint(f[19], 10, 64)
	if err != nil {
		return stat{}, fmt.Errorf("malformed stat: %w", err)
	}
	return stat{pid: pid, ppid: ppid, comm: s[open+1 : end], state: f[0][0], start: start}, nil
}

// maxProcFile bounds the small files of /proc, in bytes.
const maxProcFile = 64 << 10

// readSmall reads a file of at most limit bytes.
func readSmall(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(f, limit)
}

func readAll(f *os.File, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%s has more than %d bytes", filepath.Base(f.Name()), limit)
	}
	return b, nil
}
