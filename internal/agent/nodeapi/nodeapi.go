// Package nodeapi is how the operator speaks to the agent of a node: its messages and their
// paths, and both sides of the conversation. [Serve] (called by package node) and [Client] are
// both ours and of one release line, but not always of one release: unknown fields are
// ignored, and fields are only ever added.
//
// It is HTTP/1.1 over TLS 1.3 in which both sides are known by their public keys: the agent
// is started with the fingerprint of the operator's key and announces its own in its log
// (package announce), from where the operator writes it to the agent pod's annotation.
// Replicas of the operator share one key, and any of them may ask anything at any time.
//
//	PUT    /v1/sessions/ID/pods/POD   registers, or changes, a session at a pod: [Registration] → [Registered]
//	DELETE /v1/sessions/ID            ends a session at all pods of the node: [End]
//	GET    /v1/sessions               what runs here: [State]
//	GET    /v1/events                 a stream of JSON lines, [Event], that starts with the present state
//
// POD is [Pod.Attachment]. What fails is answered with an [Error].
//
// A session's bytes do not pass through this API: its carriers end at the worker of the pod,
// at the port that [Registered] names, on the same terms of TLS. See [DialCarrier].
package nodeapi

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/mirrord-go/mirrord/internal/grant"
	"github.com/mirrord-go/mirrord/internal/tunnel"
	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

// Version is that of this text.
const Version = 1

// DefaultTimeout is what a [Registration] without a time-out means.
const DefaultTimeout = 5 * time.Minute

// Targetless is the attachment of a session without a target.
const Targetless = "targetless"

// Values of [Registration.OnConcurrentSteal].
const (
	StealAbort    = "abort"
	StealOverride = "override"
	StealContinue = "continue"
)

// Registration asks the agent to serve a session at one pod of its node. Registering again
// replaces the grant and the rest, and keeps the session's connections where both allow them.
// One with another client key or container begins the session anew.
type Registration struct {
	// User is who the session belongs to, for messages to others ("stolen by USER").
	User string `json:"user"`
	// ClientKey is the only key that the session's client may have. No two sessions of a
	// pod have the same.
	ClientKey tunnel.Fingerprint `json:"clientKey"`
	// Pod is the target's.
	Pod Pod `json:"pod"`
	// Grant is what the session may do; the worker enforces it.
	Grant grant.Grant `json:"grant"`
	// OnConcurrentSteal is abort, override or continue; empty means abort.
	OnConcurrentSteal string `json:"onConcurrentSteal,omitempty"`
	// Timeout is how long the session may be without its client, from now and whenever
	// its client is lost, in nanoseconds. The zero value means [DefaultTimeout].
	Timeout time.Duration `json:"timeout,omitempty"`
}

// Pod is one pod of a target on the agent's node.
type Pod struct {
	// Targetless says that there is no pod: connections leave from the agent's own network.
	// The other fields are empty then.
	Targetless bool   `json:"targetless,omitempty"`
	Namespace  string `json:"namespace,omitempty"`
	Name       string `json:"name,omitempty"`
	UID        string `json:"uid,omitempty"`
	Container  string `json:"container,omitempty"`
	// ContainerID is the runtime's, with or without the runtime's name in front.
	ContainerID string `json:"containerID,omitempty"`
	// Probes are the kubelet's, by port; ProbeSources the node's addresses.
	Probes       map[uint16][]wire.Probe `json:"probes,omitempty"`
	ProbeSources []netip.Addr            `json:"probeSources,omitempty"`
}

// Attachment names the pod among those of a session: its UID, or [Targetless].
func (p Pod) Attachment() string {
	if p.Targetless {
		return Targetless
	}
	return p.UID
}

// Registered says where the session's client is served.
type Registered struct {
	// Port is where the pod's worker accepts carriers, on the agent pod's address.
	Port uint16 `json:"port"`
	// Key is the worker's, with which it answers the operator and the client.
	Key tunnel.Fingerprint `json:"key"`
	// Version is the worker's build.
	Version string `json:"version"`
}

// End says why a session ends, for its user.
type End struct {
	Reason string `json:"reason"`
}

// State is what runs on a node.
type State struct {
	// Version is the agent's build.
	Version  string         `json:"version"`
	Sessions []SessionState `json:"sessions"`
}

// SessionState is one session at one pod.
type SessionState struct {
	ID string `json:"id"`
	// PodUID is [Pod.Attachment].
	PodUID string `json:"podUID"`
	// Worker serves the session. It changes when a worker has died and another one has
	// taken over, which the operator learns from nothing else.
	Worker Registered `json:"worker"`
	// Connected says whether the client is there; Since is since when.
	Connected bool      `json:"connected"`
	Since     time.Time `json:"since"`
	// Ports that the session has, stolen and mirrored, in ascending order.
	Stolen   []uint16 `json:"stolen,omitempty"`
	Mirrored []uint16 `json:"mirrored,omitempty"`
	// BytesIn and BytesOut were carried for the session, from and to its client, encrypted
	// as they were.
	BytesIn  uint64 `json:"bytesIn"`
	BytesOut uint64 `json:"bytesOut"`
	// Refused counts what the grant refused.
	Refused uint64 `json:"refused"`
}

// EventType says what an [Event] is about.
type EventType string

// Values of [EventType].
const (
	// EventState carries the whole state of one session at one pod: at the start of the
	// stream, and when it changes. Counters alone are reported every few seconds.
	EventState EventType = "state"
	// EventEnded says that a session is over at a pod.
	EventEnded EventType = "ended"
	// EventSynced follows the states at the start of the stream.
	EventSynced EventType = "synced"
)

// Event is one line of the stream of events.
type Event struct {
	Type    EventType     `json:"type"`
	Session *SessionState `json:"session,omitempty"`
	// Reason says why a session ended: one of the constants below.
	Reason string `json:"reason,omitempty"`
	// Text says more about it, for the log and the user; it may be empty.
	Text string `json:"text,omitempty"`
}

// Values of [Event.Reason].
const (
	// ReasonGoodbye: the client has ended the session.
	ReasonGoodbye = "goodbye"
	// ReasonClientGone: the client did not come (back) within the time.
	ReasonClientGone = "client-gone"
	// ReasonTargetGone: the target's process has ended. The same pod may have another
	// container soon.
	ReasonTargetGone = "target-gone"
	// ReasonDeleted: the operator has ended the session.
	ReasonDeleted = "deleted"
	// ReasonFailed: the worker died again and again, or could not be started again.
	ReasonFailed = "failed"
	// ReasonStopped: the agent is being stopped.
	ReasonStopped = "stopped"
)

// Check says what is wrong with a registration, if anything is, as far as it can be told
// without a node.
func (r Registration) Check() error {
	switch r.OnConcurrentSteal {
	case "", StealAbort, StealOverride, StealContinue:
	default:
		return fmt.Errorf("onConcurrentSteal is %q, and can be %q, %q or %q", r.OnConcurrentSteal, StealAbort, StealOverride, StealContinue)
	}
	switch {
	case r.ClientKey == tunnel.Fingerprint{}:
		return errors.New("clientKey is missing")
	case r.Timeout < 0:
		return fmt.Errorf("timeout %v is below zero", r.Timeout)
	case !r.Pod.Targetless && (r.Pod.UID == "" || r.Pod.ContainerID == ""):
		return errors.New("a pod needs its uid and a containerID")
	case !r.Pod.Targetless && !validName(r.Pod.UID):
		return fmt.Errorf("%q is no uid of a pod", r.Pod.UID)
	}
	if _, err := r.Grant.Compile(); err != nil {
		return fmt.Errorf("the grant can't be enforced: %w", err)
	}
	return nil
}

// maxName bounds what names a session or pod in a path, in bytes.
const maxName = 128

// validName says whether a session's or pod's name can stand in a path as it is.
func validName(s string) bool {
	if s == "" || len(s) > maxName || s[0] == '.' {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '.' && r != '_'
	})
}

// Error is an answer other than the one that was asked for.
type Error struct {
	// Code is for programs: one of the constants below.
	Code string `json:"code"`
	// Message is for people.
	Message string `json:"message"`
}

// Values of [Error.Code], with the HTTP status of the answer.
const (
	// CodeInvalid (400): the request makes no sense.
	CodeInvalid = "invalid"
	// CodeTargetGone (404): no process of the container runs on the node.
	CodeTargetGone = "target-gone"
	// CodeConflict (409): another session has this client key.
	CodeConflict = "conflict"
	// CodeStopping (503): the agent is about to end; another one is needed.
	CodeStopping = "stopping"
	// CodeFailed (500): anything else.
	CodeFailed = "failed"
)

// Error returns the message.
func (e *Error) Error() string { return e.Message }
