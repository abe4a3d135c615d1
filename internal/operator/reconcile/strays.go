package reconcile

import (
	"context"
	"time"

	"github.com/mirrord-go/mirrord/internal/operator/agents"
)

// strayAge is how old a session must be that an agent has and no record is for. Younger ones
// are about to get theirs.
const strayAge = 3 * time.Minute

// strayTimeout bounds how long an agent may take to end such sessions.
const strayTimeout = 10 * time.Second

// stray is a session that an agent has and no record is for: because the replica that started it died before
// it had written one, or because the agent could not be told of its end.
type stray struct{ agent, session string }

// endOldStrays ends the strays of an agent that has just told all that it has, by their age in its words.
func (r *Reconciler) endOldStrays(ctx context.Context, a *agents.Agent) {
	var old []string
	for session, since := range r.nodes.unknown(a.UID, r.known()) {
		if time.Since(since) > strayAge {
			old = append(old, session)
		}
	}
	r.endStrays(ctx, a, old)
}

// strays ends those that were known as such for long enough, and returns since when the others are. Before is
// what it returned the last time.
func (r *Reconciler) strays(ctx context.Context, before map[stray]time.Time) map[stray]time.Time {
	after := map[stray]time.Time{}
	known := r.known()
	for _, a := range r.Agents.All() {
		var old []string
		for session := range r.nodes.unknown(a.UID, known) {
			key := stray{a.UID, session}
			since, seen := before[key]
			if !seen {
				since = time.Now()
			}
			after[key] = since // also when it is ended now: that may fail
			if time.Since(since) > strayAge {
				old = append(old, session)
			}
		}
		r.endStrays(ctx, a, old)
	}
	return after
}

func (r *Reconciler) endStrays(ctx context.Context, a *agents.Agent, sessions []string) {
	ctx, cancel := context.WithTimeout(ctx, strayTimeout)
	defer cancel()
	for _, id := range sessions {
		if err := r.Agents.Client(a).End(ctx, id, "the operator does not know the session"); err != nil {
			r.Log.Warn("a session that nobody knows stays at an agent", "session", id, "agent", a.Pod, "error", err)
			if ctx.Err() != nil {
				return // it is tried again
			}
		}
	}
}

// unknown are the sessions that an agent has by its own account and that are not among the known ones, with
// since when it has them in their present state.
func (n *nodes) unknown(agent string, known map[string]bool) map[string]time.Time {
	n.mu.Lock()
	defer n.mu.Unlock()
	said := n.agents[agent]
	if said == nil || !said.synced {
		return nil
	}
	out := map[string]time.Time{}
	for k, s := range said.states {
		if known[k.session] {
			continue
		}
		if since, twice := out[k.session]; !twice || s.Since.Before(since) {
			out[k.session] = s.Since
		}
	}
	return out
}

// known are the names of all sessions that have a record.
func (r *Reconciler) known() map[string]bool {
	known := map[string]bool{}
	for _, rec := range r.Records.All() {
		known[rec.Name] = true
	}
	return known
}
