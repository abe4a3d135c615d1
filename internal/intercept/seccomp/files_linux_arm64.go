package seccomp

// oldFileCalls is empty: the architecture has the calls with a directory only.
var oldFileCalls []uint32
