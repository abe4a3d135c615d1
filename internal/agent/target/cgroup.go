package target

import (
	"errors"
	"fmt"
	"strings"
)

// Selector names a container of a pod. At least one of its fields is needed.
type Selector struct {
	// PodUID is the pod's metadata.uid. For a static pod the kubelet uses another one in
	// the control groups, so that only ContainerID finds it.
	PodUID string
	// ContainerID is the container's ID in the pod's status, with or without the scheme
	// of its runtime ("containerd://…").
	ContainerID string
}

// normalize checks the selector and strips the runtime's scheme. What is left contains
// nothing but the characters of IDs, so that an ID can't match by accident.
func (s Selector) normalize() (Selector, error) {
	if _, id, ok := strings.Cut(s.ContainerID, "://"); ok {
		s.ContainerID = id
	}
	if s.PodUID == "" && s.ContainerID == "" {
		return s, errors.New("neither a pod UID nor a container ID was given")
	}
	for what, id := range map[string]string{"pod UID": s.PodUID, "container ID": s.ContainerID} {
		if id != "" && (len(id) < 8 || strings.ContainsFunc(id, func(r rune) bool { return !isIDChar(r) })) {
			return s, fmt.Errorf("%q is no %s: at least 8 letters, digits and dashes are expected", id, what)
		}
	}
	return s, nil
}

func isIDChar(r rune) bool {
	return r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r == '-'
}

// membership is what a process's control groups say about it.
type membership struct {
	pod, container bool // it belongs to the selected pod, container
}

// member looks for the selector's IDs in the text of a /proc/PID/cgroup.
//
// The drivers write them in different ways, and a private cgroup namespace of the agent
// shows the paths relative to itself ("/../../pod…"), so every component of every path is
// searched for the IDs as whole words:
//
//	11:pids:/kubepods/burstable/pod<uid>/<id>
//	0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid_with_underscores>.slice/cri-containerd-<id>.scope
//	0::/system.slice/containerd.service/kubepods-burstable-pod<uid_>.slice:cri-containerd:<id>
//	0::/../../kubepods-besteffort-pod<uid_>.slice/crio-<id>.scope
func (s Selector) member(cgroup string) membership {
	var m membership
	underscored := strings.ReplaceAll(s.PodUID, "-", "_")
	for line := range strings.Lines(cgroup) {
		// hierarchy-ID:controller-list:path, cgroups(7); the path may contain colons.
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) != 3 {
			continue
		}
		for c := range strings.SplitSeq(parts[2], "/") {
			if s.PodUID != "" {
				m.pod = m.pod || hasWord(c, "pod"+s.PodUID) || hasWord(c, "pod"+underscored)
			}
			if s.ContainerID != "" {
				m.container = m.container || hasWord(c, s.ContainerID)
			}
		}
	}
	return m
}

// hasWord reports whether w stands in s with no letter, digit or underscore beside it.
func hasWord(s, w string) bool {
	for off := 0; ; {
		i := strings.Index(s[off:], w)
		if i < 0 {
			return false
		}
		start, end := off+i, off+i+len(w)
		if (start == 0 || !isWordByte(s[start-1])) && (end == len(s) || !isWordByte(s[end])) {
			return true
		}
		off = start + 1
	}
}

func isWordByte(b byte) bool { return b != '-' && isIDChar(rune(b)) || b == '_' }
