package session

import "os"

// RunWith is Run with something else in place of intercept.Start.
var RunWith = run

// Pass lets a test stand for a running process.
func (s *Signals) Pass(to interface{ Signal(os.Signal) error }) (stop func()) { return s.pass(to) }
