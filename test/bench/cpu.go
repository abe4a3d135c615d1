package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// The groups of programs whose CPU time is told apart.
const (
	clientCPU   = "client"   // mirrord, or kubectl
	platformCPU = "platform" // API server, kubelet, containerd
	operatorCPU = "operator"
	agentCPU    = "agent"
	loadCPU     = "load" // both of its ends
)

// cpuGroups are in the order of the table.
var cpuGroups = []string{clientCPU, platformCPU, operatorCPU, agentCPU, loadCPU}

// programs by the beginning of their names, which Linux cuts off after 15 bytes.
var programs = map[string]string{
	"kube-apiserver": platformCPU, "kubelet": platformCPU, "containerd": platformCPU, "containerd-shim": platformCPU,
	"mirrord-operato": operatorCPU, "mirrord-agent": agentCPU, "loader": loadCPU, "workload": loadCPU, "mirrord": clientCPU, "kubectl": clientCPU,
}

// cpuTime is CPU time by group, in seconds. A process that has ended counts no more.
type cpuTime map[string]float64

// cpuTimes reads what the programs of the benchmark and of its cluster have used so far. node is the
// first process of the cluster.
func cpuTimes(node int) cpuTime {
	used := cpuTime{}
	for group, all := range running(node) {
		for _, p := range all {
			used[group] += p.seconds
		}
	}
	return used
}

// memories are the resident memory of the same programs by group, in MiB.
func memories(node int) map[string]float64 {
	held := map[string]float64{}
	for group, all := range running(node) {
		for _, p := range all {
			held[group] += p.pages * float64(os.Getpagesize()) / mib
		}
	}
	return held
}

// running are the programs of the benchmark and of its cluster by group.
func running(node int) map[string][]procStat {
	stats := map[int]procStat{}
	files, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is good
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		if pid, s, ok := parseStat(b); ok {
			stats[pid] = s
		}
	}
	groups := map[string][]procStat{}
	for pid, s := range stats {
		if s.name == "exe" { // a program that started itself again
			path, _ := os.Readlink("/proc/" + strconv.Itoa(pid) + "/exe")
			s.name = filepath.Base(path)
		}
		if group, ok := programs[s.name]; ok && descends(stats, pid, node, os.Getpid()) {
			groups[group] = append(groups[group], s)
		}
	}
	return groups
}

type procStat struct {
	name    string
	parent  int
	seconds float64 // of CPU time
	pages   float64 // of memory
}

// ticks are the unit of times in proc_pid_stat(5), on all systems that Go knows.
const ticks = 100

func parseStat(b []byte) (pid int, s procStat, ok bool) {
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 0 || end < open {
		return 0, s, false
	}
	s.name = string(b[open+1 : end])
	f := strings.Fields(string(b[end+1:])) // from the third field on
	if len(f) < 22 {
		return 0, s, false
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b[:open])))
	s.parent, _ = strconv.Atoi(f[1])
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	s.seconds = float64(user+system) / ticks
	s.pages, _ = strconv.ParseFloat(f[21], 64)
	return pid, s, err == nil
}

func descends(stats map[int]procStat, pid int, from ...int) bool {
	for ; pid > 1; pid = stats[pid].parent {
		for _, f := range from {
			if pid == f {
				return true
			}
		}
	}
	return false
}

// since is what was used after before.
func (c cpuTime) since(before cpuTime) cpuTime {
	d := cpuTime{}
	for group, s := range c {
		if s > before[group] {
			d[group] = s - before[group]
		}
	}
	return d
}
