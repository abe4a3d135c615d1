//go:build !unix

package session

import "os"

// handled is what other systems know of signals.
func handled() []os.Signal { return []os.Signal{os.Interrupt} }

// ends says whether a signal means that the user wants no session.
func ends(sig os.Signal) bool { return sig == os.Interrupt }

// forwards is never asked: no process runs on these systems.
func forwards(os.Signal) bool { return false }
