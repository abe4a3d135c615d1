package reconcile

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// removeIdle removes agents that nobody has needed for a while, of whatever version, sessions that nobody
// knows, and what is known of those.
func (r *Reconciler) removeIdle(ctx context.Context) {
	every := min(max(r.AgentIdleTimeout/4, time.Second), 15*time.Second)
	tick := time.NewTicker(every)
	defer tick.Stop()
	idle, strays := map[string]time.Time{}, map[stray]time.Time{}
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		idle = r.idlePods(ctx, idle)
		strays = r.strays(ctx, strays)
	}
}

// idlePods removes what was idle for long enough, and returns since when the others are.
func (r *Reconciler) idlePods(ctx context.Context, before map[string]time.Time) map[string]time.Time {
	used := map[string]bool{}
	for _, rec := range r.Records.All() {
		for _, route := range rec.Routes {
			used[route.AgentUID] = true
		}
	}
	r.nodes.prune(r.Records.All())
	after := map[string]time.Time{}
	for _, pod := range r.Agents.Pods() {
		uid := string(pod.UID)
		if pod.DeletionTimestamp != nil || used[uid] || r.nodes.busy(uid) {
			continue
		}
		since, known := before[uid]
		if !known {
			since = time.Now()
		}
		ended := pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded
		if time.Since(since) < r.AgentIdleTimeout && !ended || !known {
			after[uid] = since
			continue
		}
		if err := r.Agents.Remove(ctx, pod); err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			r.Log.Warn("an idle agent could not be removed", "agent", pod.Name, "error", err)
			after[uid] = since
			continue
		}
		r.Log.Info("agent removed", "agent", pod.Name, "idle", time.Since(since).Round(time.Second))
	}
	return after
}

// busy says whether an agent has sessions by its own account.
func (n *nodes) busy(uid string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	a := n.agents[uid]
	return a != nil && len(a.states) > 0
}
