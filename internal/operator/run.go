package operator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"github.com/mirrord-go/mirrord/internal/agent/nodeapi"
	"github.com/mirrord-go/mirrord/internal/operator/agents"
	"github.com/mirrord-go/mirrord/internal/operator/apiserver"
	"github.com/mirrord-go/mirrord/internal/operator/certs"
	"github.com/mirrord-go/mirrord/internal/operator/keys"
	"github.com/mirrord-go/mirrord/internal/operator/options"
	"github.com/mirrord-go/mirrord/internal/operator/reconcile"
	"github.com/mirrord-go/mirrord/internal/operator/records"
	"github.com/mirrord-go/mirrord/internal/operator/rules"
	"github.com/mirrord-go/mirrord/internal/operator/session"
	"github.com/mirrord-go/mirrord/internal/operator/telemetry"
	"github.com/mirrord-go/mirrord/internal/operator/workloads"
	"github.com/mirrord-go/mirrord/internal/version"
)

// gcPercent keeps less garbage than Go does: most of the memory is that of connections, which
// live long and are many, and what passes through them makes little.
const gcPercent = 50

// Run runs the operator until ctx ends, and then until what is under way has ended, too. The
// options are valid.
func Run(ctx context.Context, o *options.Options, log *slog.Logger) error {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	p, err := newParts(ctx, o, log)
	if err != nil {
		return err
	}
	defer p.agents.Close()
	defer p.listener.Close() // the server's, but it may come to none
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel(nil)
	// Whichever part fails first ends the others.
	part := func(run func(context.Context) error) {
		running.Go(func() {
			if err := run(ctx); err != nil && ctx.Err() == nil {
				cancel(err)
			}
		})
	}
	if o.MetricsAddress != "" {
		part(func(ctx context.Context) error { return p.metrics.Serve(ctx, o.MetricsAddress, p.ready) })
	}
	if err := p.fill(ctx); err != nil {
		return failure(ctx, err)
	}
	part(p.lead)
	part(p.server.Run)
	log.Info("the operator serves", "version", version.String(), "address", p.listener.Addr().String())
	<-ctx.Done()
	log.Info("the operator is stopping")
	running.Wait()
	return failure(ctx, nil)
}

// failure is err, or why ctx has ended unless that was a signal.
func failure(ctx context.Context, err error) error {
	switch cause := context.Cause(ctx); {
	case cause == nil:
		return err
	case errors.Is(cause, context.Canceled):
		return nil
	default:
		return cause
	}
}

// parts are the operator's.
type parts struct {
	o   *options.Options
	log *slog.Logger
	clients

	listener   net.Listener
	records    *records.Store
	workloads  *workloads.Index
	rules      *rules.Rules
	agents     *agents.Pool
	authorizer authorizer.Authorizer
	sessions   *session.Manager
	reconciler *reconcile.Reconciler
	metrics    *telemetry.Metrics
	server     *apiserver.Server
	cert       certificate

	synced chan struct{}   // closed when the caches are filled
	ctx    context.Context //nolint:containedctx // of Run, for readiness
}

func newParts(ctx context.Context, o *options.Options, log *slog.Logger) (*parts, error) {
	p := &parts{o: o, log: log, synced: make(chan struct{}), ctx: ctx}
	if err := p.connect(o); err != nil {
		return nil, err
	}
	identity, err := keys.Ensure(ctx, p.kube, o.Namespace)
	if err != nil {
		return nil, err
	}
	if p.records, err = records.New(p.config); err != nil {
		return nil, err
	}
	if p.workloads, err = workloads.New(p.kube, p.meta); err != nil {
		return nil, err
	}
	p.rules = rules.New(p.dynamic, log)
	p.agents, err = agents.New(p.kube, agents.Config{
		Namespace: o.Namespace, Options: o.Agent, Version: version.String(), Identity: identity, Log: log,
	})
	if err != nil {
		return nil, err
	}
	if p.authorizer, err = apiserver.Authorizer(p.kube); err != nil {
		return nil, err
	}
	p.metrics = telemetry.NewMetrics(telemetry.Sources{
		Records: p.records.All, Agents: func() int { return len(p.agents.All()) }, States: p.states,
	})
	p.sessions, err = session.New(session.Config{
		Records: p.records, Workloads: p.workloads, Rules: p.rules, Agents: p.agents, Authorizer: p.authorizer,
		GracePeriod: o.GracePeriod, MaxSessionsPerUser: o.MaxSessionsPerUser, Log: log, Refused: p.metrics.Refused,
	})
	if err != nil {
		return nil, err
	}
	p.reconciler, err = reconcile.New(reconcile.Config{
		Records: p.records, Workloads: p.workloads, Rules: p.rules, Agents: p.agents, Sessions: p.sessions,
		GracePeriod: o.GracePeriod, MaxSessionTime: o.MaxSessionTime, AgentIdleTimeout: o.Agent.IdleTimeout, Log: log,
	})
	if err != nil {
		return nil, err
	}
	if p.cert, err = newCertificate(ctx, o, &p.clients, log); err != nil {
		return nil, err
	}
	return p, p.newServer(ctx)
}

func (p *parts) newServer(ctx context.Context) error {
	proxy, err := apiserver.FrontProxy(ctx, p.kube)
	if err != nil {
		return err
	}
	if p.listener, err = net.Listen("tcp", p.o.ListenAddress); err != nil {
		return fmt.Errorf("listening for the API: %w", err)
	}
	p.server, err = apiserver.New(apiserver.Config{
		Listener: p.listener, Certificate: p.cert.provider, FrontProxy: proxy, Authorizer: p.authorizer,
		Sessions: p.sessions, Targets: p.workloads, Carriers: p.sessions, Counter: p.metrics,
		LeaveDelay: leaveDelay, Version: version.String(), Log: p.log,
	})
	if err != nil {
		return errors.Join(err, p.listener.Close())
	}
	return nil
}

// fill runs the caches and waits until they know the cluster.
func (p *parts) fill(ctx context.Context) error {
	p.workloads.Start(ctx)
	p.rules.Start(ctx)
	p.agents.Start(ctx)
	go p.records.Informer().RunWithContext(ctx)
	ctx, cancel := context.WithTimeoutCause(ctx, fillTimeout, errSlowAPI)
	defer cancel()
	for _, wait := range []func(context.Context) error{p.workloads.Wait, p.rules.Wait, p.agents.Wait} {
		if err := wait(ctx); err != nil {
			return err
		}
	}
	if !cache.WaitForCacheSync(ctx.Done(), p.records.Informer().HasSynced) {
		return fmt.Errorf("reading the sessions: %w", context.Cause(ctx))
	}
	close(p.synced)
	return nil
}

// leaveDelay is how long a replica that stops still answers: endpoints of Services take a
// moment to change everywhere.
const leaveDelay = 3 * time.Second

// fillTimeout bounds how long the API server may take to tell what there is.
const fillTimeout = 2 * time.Minute

var errSlowAPI = errors.New("the API server did not answer in time; are the resource types installed, and may the operator read them?")

// ready says what is missing for this replica to serve.
func (p *parts) ready() error {
	if p.ctx.Err() != nil {
		return errors.New("the operator is stopping")
	}
	select {
	case <-p.synced:
	default:
		return errors.New("the cluster has not been read yet")
	}
	return p.cert.ready()
}

// states are the reconciler's; there is none before everything is made.
func (p *parts) states() (all []nodeapi.SessionState) {
	if p.reconciler != nil {
		all = p.reconciler.States()
	}
	return all
}

// Times of the election. A replica that vanishes is replaced after leaseDuration.
const (
	leaseName     = "mirrord-operator"
	leaseDuration = 10 * time.Second
	renewDeadline = 7 * time.Second
	retryPeriod   = 2 * time.Second
)

// lead takes part in the election of the replica that looks after sessions, until ctx ends.
func (p *parts) lead(ctx context.Context) error {
	id, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("finding a name for this replica: %w", err)
	}
	lock := &resourcelock.LeaseLock{
		LeaseMeta:  metav1.ObjectMeta{Name: leaseName, Namespace: p.o.Namespace},
		Client:     p.kube.CoordinationV1(),
		LockConfig: resourcelock.ResourceLockConfig{Identity: fmt.Sprintf("%s_%d", id, time.Now().UnixNano())},
	}
	// One run at a time, also when the lease is lost and won again.
	var working sync.Mutex
	for ctx.Err() == nil {
		elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
			Lock: lock, Name: leaseName, LeaseDuration: leaseDuration, RenewDeadline: renewDeadline, RetryPeriod: retryPeriod,
			ReleaseOnCancel: true,
			Callbacks: leaderelection.LeaderCallbacks{
				OnStartedLeading: func(ctx context.Context) {
					working.Lock()
					defer working.Unlock()
					p.metrics.Leads(true)
					defer p.metrics.Leads(false)
					p.reconciler.Run(ctx)
				},
				OnStoppedLeading: func() {},
			},
		})
		if err != nil {
			return fmt.Errorf("electing a leader: %w", err)
		}
		elector.Run(ctx)
	}
	working.Lock() // until what this replica did as the leader has ended
	defer working.Unlock()
	return nil
}

// certificate is what the API is served with.
type certificate struct {
	provider dynamiccertificates.CertKeyContentProvider
	ready    func() error
}

// newCertificate reads the certificate of the options, or makes one.
func newCertificate(ctx context.Context, o *options.Options, c *clients, log *slog.Logger) (certificate, error) {
	if o.TLSCertFile != "" {
		files, err := dynamiccertificates.NewDynamicServingContentFromFiles("serving-cert", o.TLSCertFile, o.TLSPrivateKeyFile)
		if err != nil {
			return certificate{}, fmt.Errorf("reading the serving certificate: %w", err)
		}
		return certificate{files, func() error { return nil }}, nil
	}
	var publisher certs.Publisher = nobody{}
	if o.APIService != "" {
		publisher = certs.NewAPIService(c.dynamic, o.APIService)
	}
	m := certs.New(c.kube, publisher, certs.Options{Namespace: o.Namespace, Service: o.Service, Logger: log})
	if err := m.RunOnce(ctx); err != nil && m.Ready() != nil {
		return certificate{}, fmt.Errorf("making a serving certificate: %w", err)
	}
	return certificate{m, m.Ready}, nil
}

// nobody is told of the operator's authority.
type nobody struct{}

func (nobody) Publish(context.Context, []byte) error { return nil }
