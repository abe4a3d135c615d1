// Package agents keeps one agent on each node that needs one.
//
// A [Pool] makes an agent's pod when a session needs it ([Pool.Ensure]), waits until it serves,
// and gives connections to it. The pod's name follows from the node and from what the pod
// looks like, so that replicas which race make one, and a new version of the operator makes
// new ones beside the old, which stay as long as they have sessions.
//
// An agent prints its public key; the replica that reads it first writes it to the pod's
// annotations, where the others find it.
package agents

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/mirrord-go/mirrord/internal/agent/nodeapi"
	"github.com/mirrord-go/mirrord/internal/kube"
	"github.com/mirrord-go/mirrord/internal/operator/options"
	"github.com/mirrord-go/mirrord/internal/tunnel"
)

// Annotations of an agent's pod.
const (
	annotationKey     = "mirrord-agent/key"
	annotationPort    = "mirrord-agent/port"
	annotationVersion = "mirrord-agent/version"
)

// selector finds the operator's agents among the pods of its namespace.
const selector = "app.kubernetes.io/name=mirrord-agent,app.kubernetes.io/managed-by=mirrord-operator"

// Agent is an agent that serves.
type Agent struct {
	// Pod is the pod's name, UID its identity. Node is where it runs.
	Pod, UID, Node string
	// IP is the pod's address, Port where the agent listens to the operator.
	IP   netip.Addr
	Port uint16
	// Key is what the agent proves itself with.
	Key tunnel.Fingerprint
	// Version is the agent's build.
	Version string
}

// Config is what a pool is made of.
type Config struct {
	// Namespace is where agents run.
	Namespace string
	// Options say what their pods look like.
	Options options.Agent
	// Version is that of the operator: another one has other agents.
	Version string
	// Identity is the operator's.
	Identity *tunnel.Identity
	Log      *slog.Logger
}

// Pool keeps the agents. It is safe for concurrent use.
type Pool struct {
	client    kubernetes.Interface
	config    Config
	resources *corev1.ResourceRequirements
	informer  cache.SharedIndexInformer
	factory   informers.SharedInformerFactory

	mu       sync.Mutex
	changed  chan struct{}              // closed and replaced when a pod changes
	clients  map[string]*nodeapi.Client // by the pod's UID
	starting map[string]*start          // by node
}

// start is an agent that somebody waits for.
type start struct {
	done  chan struct{}
	agent *Agent
	err   error
}

// New returns a pool that knows nothing until it runs.
func New(client kubernetes.Interface, c Config) (*Pool, error) {
	resources, err := resourcesOf(c.Options)
	if err != nil {
		return nil, err
	}
	p := &Pool{
		client: client, config: c, resources: resources,
		changed: make(chan struct{}), clients: map[string]*nodeapi.Client{}, starting: map[string]*start{},
		factory: informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(c.Namespace),
			informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = selector })),
	}
	p.informer = p.factory.Core().V1().Pods().Informer()
	_, err = p.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { p.notify() },
		UpdateFunc: func(_, _ any) { p.notify() },
		DeleteFunc: func(o any) { p.forget(o); p.notify() },
	})
	if err != nil {
		return nil, fmt.Errorf("following agents: %w", err)
	}
	return p, nil
}

// Start begins to follow the agents, until ctx ends.
func (p *Pool) Start(ctx context.Context) { p.factory.Start(ctx.Done()) }

// Wait waits until everything that there is has been read once.
func (p *Pool) Wait(ctx context.Context) error {
	if !cache.WaitForCacheSync(ctx.Done(), p.informer.HasSynced) {
		return fmt.Errorf("reading the agents: %w", context.Cause(ctx))
	}
	return nil
}

// Handle has f called after every change of an agent, from one goroutine. It must be quick.
func (p *Pool) Handle(f func()) error {
	_, err := p.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { f() }, UpdateFunc: func(_, _ any) { f() }, DeleteFunc: func(any) { f() },
	})
	return err
}

func (p *Pool) notify() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.changed)
	p.changed = make(chan struct{})
}

// forget hangs up on an agent that is gone.
func (p *Pool) forget(o any) {
	if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
		o = gone.Obj
	}
	pod, ok := o.(*corev1.Pod)
	if !ok {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.clients[string(pod.UID)]; c != nil {
		c.Close()
		delete(p.clients, string(pod.UID))
	}
}

// Close hangs up on all agents.
func (p *Pool) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.clients {
		c.Close()
	}
	clear(p.clients)
}

// Pods are all pods of agents, of whatever version. They must not be changed.
func (p *Pool) Pods() []*corev1.Pod {
	var pods []*corev1.Pod
	for _, o := range p.informer.GetStore().List() {
		if pod, ok := o.(*corev1.Pod); ok {
			pods = append(pods, pod)
		}
	}
	return pods
}

// Get returns the agent with that pod, of whatever version; nil when it does not serve.
func (p *Pool) Get(pod string) *Agent {
	o, ok, err := p.informer.GetStore().GetByKey(p.config.Namespace + "/" + pod)
	found, is := o.(*corev1.Pod)
	if err != nil || !ok || !is {
		return nil
	}
	return agentOf(found)
}

// All are the agents that serve.
func (p *Pool) All() []*Agent {
	var all []*Agent
	for _, pod := range p.Pods() {
		if a := agentOf(pod); a != nil {
			all = append(all, a)
		}
	}
	return all
}

// Client speaks to an agent. The pool keeps it.
func (p *Pool) Client(a *Agent) *nodeapi.Client {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.clients[a.UID]
	if c == nil {
		c = nodeapi.NewClient(a.address(a.Port), p.config.Identity, a.Key)
		p.clients[a.UID] = c
	}
	return c
}

// DialCarrier connects to a worker of an agent.
func (p *Pool) DialCarrier(ctx context.Context, a *Agent, port uint16, worker tunnel.Fingerprint) (net.Conn, error) {
	return nodeapi.DialCarrier(ctx, a.address(port), p.config.Identity, worker)
}

func (a *Agent) address(port uint16) string {
	return netip.AddrPortFrom(a.IP, port).String()
}

// agentOf reads a pod; nil when it does not serve, or nobody has read its key yet.
func agentOf(pod *corev1.Pod) *Agent {
	if pod.DeletionTimestamp != nil || pod.Status.Phase != corev1.PodRunning {
		return nil
	}
	key, err := tunnel.ParseFingerprint(pod.Annotations[annotationKey])
	if err != nil {
		return nil
	}
	port, err := strconv.ParseUint(pod.Annotations[annotationPort], 10, 16)
	if err != nil || port == 0 {
		return nil
	}
	ip, err := netip.ParseAddr(pod.Status.PodIP)
	if err != nil {
		return nil
	}
	return &Agent{
		Pod: pod.Name, UID: string(pod.UID), Node: pod.Spec.NodeName, IP: ip, Port: uint16(port),
		Key: key, Version: pod.Annotations[annotationVersion],
	}
}

// Ensure returns the agent of a node, of the pool's version, and makes it when there is none.
// An empty node means an agent for sessions without a target, anywhere. It fails with a
// [*StartError] when the agent does not serve within the time of the options.
func (p *Pool) Ensure(ctx context.Context, node string) (*Agent, error) {
	if a := p.Get(p.name(node)); a != nil {
		return a, nil
	}
	p.mu.Lock()
	s := p.starting[node]
	if s == nil {
		s = &start{done: make(chan struct{})}
		p.starting[node] = s
		// Others may wait for it, too: it does not end with this request.
		go p.start(context.WithoutCancel(ctx), node, s)
	}
	p.mu.Unlock()
	select {
	case <-s.done:
		return s.agent, s.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (p *Pool) start(ctx context.Context, node string, s *start) {
	ctx, cancel := context.WithTimeoutCause(ctx, p.config.Options.StartTimeout, errSlow)
	defer cancel()
	s.agent, s.err = p.run(ctx, node)
	p.mu.Lock()
	delete(p.starting, node)
	p.mu.Unlock()
	close(s.done)
	if s.err != nil {
		p.config.Log.Error("an agent does not start", "node", node, "error", s.err)
	}
}

var errSlow = errors.New("it took too long")

// name is the pod's name for a node: the same for all replicas of one version, another for
// each other kind of pod.
func (p *Pool) name(node string) string {
	look, err := json.Marshal(struct {
		Node, Version, Operator string
		Options                 options.Agent
	}{node, p.config.Version, p.config.Identity.Fingerprint().String(), p.config.Options})
	if err != nil {
		look = []byte(node + p.config.Version) // strings can't fail to be JSON
	}
	sum := sha256.Sum256(look)
	hash := strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:6]))
	label := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, node)
	if node == "" {
		label = nodeapi.Targetless
	}
	return "mirrord-agent-" + strings.Trim(label[:min(len(label), 30)], "-") + "-" + hash
}

// pod is the pod of a node's agent.
func (p *Pool) pod(node string) *corev1.Pod {
	o := p.config.Options
	labels := map[string]string{}
	for k, v := range o.Labels {
		labels[k] = v
	}
	labels["app.kubernetes.io/managed-by"] = "mirrord-operator"
	labels["app.kubernetes.io/component"] = "agent"
	labels["app.kubernetes.io/part-of"] = "mirrord"
	args := []string{
		"node", "--operator-key", p.config.Identity.Fingerprint().String(),
		// For when no operator is left to remove it.
		"--idle-timeout", (o.IdleTimeout + abandonedAfter).String(),
	}
	if o.LogLevel != "" {
		args = append(args, "--log-level", o.LogLevel)
	}
	agent := kube.NodeAgent{
		Name: p.name(node), Namespace: p.config.Namespace, Node: node,
		Image: o.Image, PullPolicy: o.PullPolicy, PullSecrets: o.PullSecrets,
		PriorityClass: o.PriorityClass, ServiceAccount: o.ServiceAccount, Resources: p.resources,
		Args: args, Labels: labels, Annotations: o.Annotations,
		DisabledCapabilities: o.DisabledCapabilities, Privileged: o.Privileged,
	}
	return agent.Pod()
}

// abandonedAfter is how much longer than the operator an agent waits for sessions, before it
// ends by itself.
const abandonedAfter = 5 * time.Minute

// Remove deletes an agent's pod, if it still is that one.
func (p *Pool) Remove(ctx context.Context, pod *corev1.Pod) error {
	return p.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: new(pod.UID)},
	})
}
