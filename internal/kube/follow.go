package kube

import (
	"context"
	"fmt"
	"time"

	"github.com/mirrord-go/mirrord/internal/config"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

const (
	// pollPause is between two lists of users who may not watch.
	pollPause = 2 * time.Second
	// recheckPause is how often a workload without pods is looked for.
	recheckPause = 5 * time.Second
	// followPause is how long a cluster that does not answer is left alone.
	followPause = 2 * time.Second
)

// Follow calls see with the pods of the workload whose container runs, at once and whenever
// they change, in the order of [Workload.Targets], until ctx ends or the workload is gone.
// Pods that are being deleted are among them as long as they run. A cluster that does not
// answer for a while changes nothing. Say is told what the user should know; may be nil.
func (w *Workload) Follow(ctx context.Context, see func([]*Target), say func(string)) error {
	f := &follower{Workload: w, changed: see, say: say}
	for {
		see(w.running())
		err := f.round(ctx)
		for err == nil {
			if err = f.list(ctx); err == nil {
				break
			}
			w.c.log.DebugContext(ctx, "the target's pods can't be listed", "error", err)
			err = sleep(ctx, followPause)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			return err
		}
	}
}

// follower is one run of Follow.
type follower struct {
	*Workload
	changed func([]*Target)
	say     func(string)

	polls   bool // the user may not watch
	missing int  // how often in a row the workload was not there
}

// round follows the pods from the last list on, until it is time to list again.
func (f *follower) round(ctx context.Context) error {
	if f.polls {
		if err := sleep(ctx, pollPause); err != nil {
			return err
		}
		_, err := f.recheck(ctx)
		return err
	}
	w, err := f.c.watch(ctx, pods, f.namespace, metav1.ListOptions{
		LabelSelector: f.selector, ResourceVersion: f.version, AllowWatchBookmarks: true,
	})
	switch {
	case apierrors.IsForbidden(err):
		f.polls = true
		if f.say != nil {
			f.say(fmt.Sprintf("you may not watch pods in namespace %s, so the cluster is asked every %v which pods %s has (docs/rbac.md)", f.namespace, pollPause, f.path))
		}
		return nil
	case err != nil:
		f.c.log.DebugContext(ctx, "the target's pods can't be watched", "error", err)
		return sleep(ctx, followPause)
	}
	defer w.Stop()
	return f.watchPods(ctx, w)
}

// watchPods returns nil when it is time to list again.
func (f *follower) watchPods(ctx context.Context, w watch.Interface) error {
	recheck := time.NewTicker(recheckPause)
	defer recheck.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-recheck.C:
			if moved, err := f.recheck(ctx); moved || err != nil {
				return err
			}
		case event, ok := <-w.ResultChan():
			if !ok {
				return nil
			}
			pod, isPod := event.Object.(*corev1.Pod)
			if !isPod { // an error, such as an expired resource version
				return nil
			}
			if event.Type == watch.Bookmark {
				continue
			}
			if !f.event(ctx, event.Type, pod) {
				return nil
			}
			f.changed(f.running())
		}
	}
}

// event notes a change, and says whether that was possible.
func (f *follower) event(ctx context.Context, what watch.EventType, pod *corev1.Pod) bool {
	if what == watch.Deleted {
		delete(f.pods, pod.UID)
		return true
	}
	if err := f.see(ctx, pod); err != nil {
		f.c.log.DebugContext(ctx, "it is unknown whose a pod is", "pod", pod.Name, "error", err)
		return false
	}
	return true
}

// recheck looks for the workload itself when its pods may no longer be those that are
// followed, and says whether they are others. A workload that is made anew under its name is
// the same to the user.
func (f *follower) recheck(ctx context.Context) (moved bool, err error) {
	if f.path.Kind == config.Label || f.path.Kind != config.Service && len(f.pods) > 0 {
		return false, nil
	}
	uid, selector := f.uid, f.selector
	err = f.load(ctx)
	switch {
	case err == nil:
		f.missing = 0
	case reasonOf(err) == ReasonNotFound:
		if f.missing++; f.missing > 1 {
			return false, f.gone()
		}
	default:
		f.c.log.DebugContext(ctx, "the target can't be looked for", "error", err)
	}
	return f.uid != uid || f.selector != selector, nil
}
