// Package seccomp is the kernel's side of interception: a filter that hands chosen system
// calls of a thread and its descendants to this process, and the listener on which they
// arrive and are answered. See seccomp_unotify(2).
//
// The package knows nothing of networks. It holds one decision: which calls are looked at.
package seccomp
