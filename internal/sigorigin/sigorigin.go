// Package sigorigin tells who sent a signal that the runtime delivered with os/signal: the
// kernel, as for Ctrl-C in a terminal, or a process, as with kill(1). Go hands on a signal's number
// alone; the rest of what the kernel says of it (siginfo_t, see sigaction(2)) is seen by a handler of a few
// instructions that runs before the runtime's.
package sigorigin
