package reconcile

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/mirrord-go/mirrord/internal/agent/nodeapi"
)

// Bounds of what one agent may have the leader remember. It runs beside the programs of users, and has strong rights on
// its node: what takes it over should not take the operator's memory from all others, too.
const (
	// maxUnrouted is how many sessions at pods an agent may tell of besides those that are there by their records:
	// sessions whose records are on their way, and those that nobody knows any more.
	maxUnrouted = 5000
	// maxID bounds what names a session or a pod, and a build, in bytes.
	maxID = 128
	// maxPorts bounds the ports of a session at a pod. They are counted, for metrics.
	maxPorts = 1000
	// maxText bounds a reason or a text for the log, in bytes.
	maxText = 1024
)

var (
	errNames = fmt.Errorf("it tells of a session or a pod with a name of more than %d bytes", maxID)
	errMany  = fmt.Errorf("it tells of %d sessions more than there are at its node", maxUnrouted)
	errNone  = errors.New("it tells of a session or a pod without a name")
)

// bounded is what of a state is worth remembering.
func bounded(s nodeapi.SessionState) (nodeapi.SessionState, error) {
	switch {
	case s.ID == "" || s.PodUID == "":
		return s, errNone
	case len(s.ID) > maxID || len(s.PodUID) > maxID:
		return s, errNames
	}
	s.Worker.Version = clip(s.Worker.Version, maxID)
	s.Stolen, s.Mirrored = few(s.Stolen), few(s.Mirrored)
	return s, nil
}

func few(ports []uint16) []uint16 {
	return slices.Clone(ports[:min(len(ports), maxPorts)])
}

// clip is at most the first n bytes of a text, in memory of their own.
func clip(text string, n int) string {
	if len(text) <= n {
		return text
	}
	return strings.ToValidUTF8(strings.Clone(text[:n]), "")
}

// take remembers what an agent says of a session at a pod, and returns what it has said before. Routes is how many
// sessions at pods the agent has by their records.
func (n *nodes) take(agent string, said *node, e nodeapi.Event, s nodeapi.SessionState, routes func() int) (before nodeapi.SessionState, known bool, err error) {
	k := at{s.ID, s.PodUID}
	n.mu.Lock()
	defer n.mu.Unlock()
	before, known = said.states[k]
	ends := n.ended[agent]
	_, over := ends[k]
	room := func(now int) bool { return now < maxUnrouted || now < maxUnrouted+routes() }
	switch {
	case e.Type != nodeapi.EventEnded:
		if !known && !room(len(said.states)) {
			return before, known, errMany
		}
		said.states[k] = s
		return before, known, nil
	case !over && !room(len(ends)):
		return before, known, errMany
	case ends == nil:
		ends = map[at]end{}
		n.ended[agent] = ends
	}
	delete(said.states, k)
	ends[k] = end{clip(e.Reason, maxID), time.Now()}
	return before, known, nil
}

// routes is how many sessions at pods an agent has by their records.
func (r *Reconciler) routes(agent string) int {
	count := 0
	for _, rec := range r.Records.All() {
		for _, route := range rec.Routes {
			if route.AgentUID == agent {
				count++
			}
		}
	}
	return count
}
