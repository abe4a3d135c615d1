// Package target finds the process that a session stands in for and reads what the agent
// needs of it: its environment, the files that say how it resolves names, its namespaces,
// and when it ends.
//
// No container runtime is asked: the IDs of pod and container stand in the paths of the
// control groups that every process shows in /proc/PID/cgroup. A [Process] holds on to the
// process itself, not to its number, so a number that is used again is never confused with
// the target. Needs Linux 5.6 (openat2) and, for the processes of other pods, hostPID and
// CAP_SYS_PTRACE.
package target
