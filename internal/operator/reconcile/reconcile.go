// Package reconcile keeps sessions and the cluster together while sessions run: pods that come
// and go, agents that fail, policies and profiles that change, clients that are gone.
//
// One replica does this at a time. A [Reconciler] is told of changes by caches and by the
// agents' streams of events, and then looks at each session that may be concerned as a whole:
// what there is, what there should be. It asks the API server for nothing, and writes only
// what differs, so many sessions that nothing happens to cost nothing.
package reconcile

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	recordsv1 "github.com/mirrord-go/mirrord/api/records/v1alpha"
	"github.com/mirrord-go/mirrord/internal/operator/agents"
	"github.com/mirrord-go/mirrord/internal/operator/records"
	"github.com/mirrord-go/mirrord/internal/operator/rules"
	"github.com/mirrord-go/mirrord/internal/operator/session"
	"github.com/mirrord-go/mirrord/internal/operator/workloads"
)

// Config is what a reconciler is made of. All fields but MaxSessionTime are required.
type Config struct {
	Records   *records.Store
	Workloads *workloads.Index
	Rules     *rules.Rules
	Agents    *agents.Pool
	Sessions  *session.Manager
	// GracePeriod is how long a session may be without its client, or its target's object
	// missing.
	GracePeriod time.Duration
	// MaxSessionTime ends sessions that are older; zero is no limit.
	MaxSessionTime time.Duration
	// AgentIdleTimeout is how long an agent stays without a session.
	AgentIdleTimeout time.Duration
	Log              *slog.Logger
}

// Linger is how long a session that has ended is still there, so that its client can read why.
const Linger = 3 * time.Second

// workers is how many sessions are looked at at the same time. Most of that time is waiting
// for agents.
const workers = 16

// Reconciler does the work while it runs.
type Reconciler struct {
	Config
	nodes nodes

	mu      sync.Mutex
	queue   workqueue.TypedRateLimitingInterface[types.NamespacedName] // nil while it does not run
	missing map[types.NamespacedName]time.Time                         // since when targets are missing
	asked   map[types.NamespacedName]time.Time                         // when users' rights were looked at
	began   time.Time                                                  // when this replica began to look after sessions

	statusDue chan struct{} // policies have changed; holds one
}

// New returns a reconciler that does nothing before it runs. Call it before the caches run.
func New(c Config) (*Reconciler, error) {
	r := &Reconciler{
		Config: c, missing: map[types.NamespacedName]time.Time{}, asked: map[types.NamespacedName]time.Time{},
		statusDue: make(chan struct{}, 1),
	}
	r.nodes.init()
	if _, err := c.Records.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { r.changed(o) },
		UpdateFunc: func(_, o any) { r.changed(o) },
		DeleteFunc: func(o any) { r.deleted(o) },
	}); err != nil {
		return nil, fmt.Errorf("following sessions: %w", err)
	}
	if err := c.Workloads.Handle(func(namespace string, _ *corev1.Pod) { r.addNamespace(namespace) }); err != nil {
		return nil, err
	}
	if err := c.Rules.Handle(func() { r.addAll(); r.rulesChanged() }); err != nil {
		return nil, err
	}
	if err := c.Agents.Handle(func() { r.addAll(); r.nodes.poke() }); err != nil {
		return nil, fmt.Errorf("following agents: %w", err)
	}
	return r, nil
}

// Run works until ctx ends. The caches must have been filled.
func (r *Reconciler) Run(ctx context.Context) {
	r.Log.Info("this replica looks after sessions now")
	defer r.Log.Info("this replica does not look after sessions any more")
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[types.NamespacedName](200*time.Millisecond, 30*time.Second))
	r.begin(queue)
	var wg sync.WaitGroup
	defer wg.Wait()
	stop := context.AfterFunc(ctx, func() {
		r.mu.Lock()
		r.queue = nil
		r.mu.Unlock()
		queue.ShutDown()
	})
	defer stop()
	r.addAll()
	for range workers {
		wg.Go(func() { r.work(ctx, queue) })
	}
	wg.Go(func() { r.followAgents(ctx) })
	wg.Go(func() { r.removeIdle(ctx) })
	wg.Go(func() { r.writeStatus(ctx) })
	<-ctx.Done()
}

// begin takes up work. Another replica may have worked in the meantime: since when targets are missing, and which
// sessions have ended where, is not known any more.
func (r *Reconciler) begin(queue workqueue.TypedRateLimitingInterface[types.NamespacedName]) {
	r.nodes.restart()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.queue, r.began = queue, time.Now()
	clear(r.missing)
}

func (r *Reconciler) work(ctx context.Context, queue workqueue.TypedRateLimitingInterface[types.NamespacedName]) {
	for {
		key, shutdown := queue.Get()
		if shutdown {
			return
		}
		again, err := r.reconcile(ctx, key)
		switch {
		case err != nil && ctx.Err() == nil:
			r.Log.Warn("looking after a session failed, trying again", "session", key.String(), "error", err)
			queue.AddRateLimited(key)
		default:
			queue.Forget(key)
			if again > 0 {
				queue.AddAfter(key, again)
			}
		}
		queue.Done(key)
	}
}

func (r *Reconciler) add(key types.NamespacedName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.queue != nil {
		r.queue.Add(key)
	}
}

func (r *Reconciler) changed(o any) {
	if rec, ok := o.(*recordsv1.SessionRecord); ok {
		r.add(keyOf(rec))
	}
}

func (r *Reconciler) deleted(o any) {
	if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
		o = gone.Obj
	}
	rec, ok := o.(*recordsv1.SessionRecord)
	if !ok {
		return
	}
	r.mu.Lock()
	delete(r.missing, keyOf(rec))
	delete(r.asked, keyOf(rec))
	running := r.queue != nil
	r.mu.Unlock()
	r.nodes.forget(rec.Name)
	if running && rec.Status.End == nil {
		// Somebody deleted the record itself. The session ends all the same.
		go r.Sessions.Release(context.Background(), rec)
	}
}

func (r *Reconciler) addNamespace(namespace string) {
	for _, rec := range r.Records.All() {
		if rec.Namespace == namespace {
			r.add(keyOf(rec))
		}
	}
}

func (r *Reconciler) addAll() {
	for _, rec := range r.Records.All() {
		r.add(keyOf(rec))
	}
}

func keyOf(rec *recordsv1.SessionRecord) types.NamespacedName {
	return types.NamespacedName{Namespace: rec.Namespace, Name: rec.Name}
}

// statusEvery is how often conditions of policies that could not be written are tried again.
const statusEvery = 30 * time.Second

// rulesChanged has the conditions of policies looked at.
func (r *Reconciler) rulesChanged() {
	select {
	case r.statusDue <- struct{}{}:
	default:
	}
}

// writeStatus keeps the conditions of policies current.
func (r *Reconciler) writeStatus(ctx context.Context) {
	for {
		var again <-chan time.Time
		if err := r.Rules.WriteStatus(ctx); err != nil && ctx.Err() == nil {
			r.Log.Warn("writing the conditions of policies failed, trying again", "error", err)
			again = time.After(statusEvery)
		}
		select {
		case <-r.statusDue:
		case <-again:
		case <-ctx.Done():
			return
		}
	}
}
