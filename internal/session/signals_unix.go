//go:build unix

package session

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// handled are the signals that concern the local process. SIGPIPE is among them so that a
// closed standard error does not end the session: writes to it fail instead.
func handled() []os.Signal {
	return []os.Signal{
		syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT,
		syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH, syscall.SIGPIPE,
	}
}

// ends says whether a signal means that the user wants no session.
func ends(sig os.Signal) bool {
	switch sig {
	case syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT:
		return true
	}
	return false
}

// forwards says whether the process needs to be sent the signal. Those that a terminal
// sends, it sends to the whole foreground process group.
func forwards(sig os.Signal) bool {
	switch sig {
	case syscall.SIGPIPE:
		return false
	case syscall.SIGINT, syscall.SIGQUIT:
		if terminal, process := origin(sig.(syscall.Signal)); terminal || process {
			return process
		}
		return !inForeground()
	case syscall.SIGWINCH:
		return !inForeground()
	}
	return true
}

// inForeground says whether this process group has a terminal in front of it.
func inForeground() bool {
	tty, err := os.Open("/dev/tty")
	if err != nil {
		return false
	}
	defer tty.Close()
	group, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}
