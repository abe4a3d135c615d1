// Package demo shows what each adjustment of a profile does, on one Linux machine and
// without a cluster: in a sandbox of namespaces (package world) it runs real sessions, with
// the real interception, tunnel and agent, of a small program on the "laptop" against a pod,
// and compares what the program and the pod's client saw with what the adjustment promises.
//
// The executable plays every part itself: [Run] starts it again as the sandbox's first
// process ([Inside]), which starts it again as the pod's application ([world.RunPod]) and as
// the local program ([Program]).
package demo

import "errors"

// The hidden commands by which the executable is started again in its other parts.
const (
	InsideCommand  = "demo-inside"
	PodCommand     = "demo-pod"
	ProgramCommand = "demo-program"
)

// ErrFailed says that an adjustment did not have its effect. What was expected and seen
// has been printed.
var ErrFailed = errors.New("not every adjustment had its effect")

// ErrTold says that something else failed, which the sandbox has told on standard error.
var ErrTold = errors.New("the demo could not be shown")

// Options are what the demo runs with.
type Options struct {
	// Self is the path of the executable, Agent that of mirrord-agent.
	Self, Agent string
	// ProfilesDir replaces the documentation's examples by the manifests of a folder. It
	// must have profiles of the same names.
	ProfilesDir string
}
