package session

// RunWith is Run with something else in place of intercept.Start.
var RunWith = run
