// Package autoport tells whether a listener's port was asked for or chosen by the kernel. A
// process that binds port 0 (a test server, a debugger, a runtime's own helper) means no
// port of the target.
package autoport
