// Package certs makes and renews the certificate that the operator serves with, and lets the API
// server's aggregation layer know whom to trust for it.
//
// All replicas share one Secret. It holds an authority of the operator's own, which lives a year
// and can sign for the operator's Service alone, and a serving certificate of 90 days. Every
// replica looks at the Secret now and then; whichever notices first that something is missing
// or gets old replaces it, with the Secret's resource version as the arbiter of races. So nobody
// is elected, and a replica that starts alone needs nobody.
//
// The authority is replaced without a moment in which a served certificate is not trusted: the
// next one is in the APIService's caBundle for an hour before it signs, and the old one stays
// there until it ends. Its private key is forgotten as soon as the next one signs. Taking all data
// out of the Secret starts anew, with an authority that nothing before knows.
//
// A [Manager] is a dynamiccertificates.CertKeyContentProvider and ControllerRunner: the generic
// API server that gets it as SecureServingInfo.Cert runs it, and serves a new certificate from the
// next handshake on.
package certs

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/client-go/kubernetes"
)

// The defaults of [Options].
const (
	DefaultSecret   = "mirrord-operator-tls"
	DefaultInterval = 15 * time.Second
	DefaultOverlap  = time.Hour
)

// Options say which certificate is managed. Namespace and Service are required.
type Options struct {
	// Namespace and Service are those of the operator's Service: the certificate is for
	// SERVICE.NAMESPACE.svc.
	Namespace, Service string
	// Secret is the name of the Secret in that namespace; empty means [DefaultSecret].
	Secret string
	// Interval is how often the Secret and the bundle are looked at; 0 means
	// [DefaultInterval].
	Interval time.Duration
	// Overlap is how long an authority is trusted before it signs; 0 means [DefaultOverlap].
	Overlap time.Duration
	// Logger is told what is renewed and what fails; nil drops it. Keys never get there.
	Logger *slog.Logger
}

// Publisher makes the authorities known to those who verify the certificate. It is called in each
// round, from one goroutine, and has to be quick when there is nothing to change.
type Publisher interface {
	Publish(ctx context.Context, bundle []byte) error
}

// Manager keeps the certificate. Its methods may be called from any goroutine.
type Manager struct {
	client  kubernetes.Interface
	publish Publisher
	opts    Options
	names   []string
	log     *slog.Logger

	round     sync.Mutex // one round at a time
	published []byte     // what Publish accepted last; guarded by round
	failing   string     // the failure that was logged last; guarded by round

	mu        sync.Mutex
	cert, key []byte
	listeners []dynamiccertificates.Listener
}

var (
	_ dynamiccertificates.CertKeyContentProvider = (*Manager)(nil)
	_ dynamiccertificates.ControllerRunner       = (*Manager)(nil)
)

// New returns a manager that has no certificate yet. Publisher is usually [NewAPIService].
func New(client kubernetes.Interface, publisher Publisher, opts Options) *Manager {
	opts.Secret = cmp.Or(opts.Secret, DefaultSecret)
	opts.Interval = cmp.Or(opts.Interval, DefaultInterval)
	opts.Overlap = cmp.Or(opts.Overlap, DefaultOverlap)
	host := opts.Service + "." + opts.Namespace + ".svc"
	return &Manager{
		client: client, publish: publisher, opts: opts,
		names: []string{host, host + ".cluster.local"},
		log:   cmp.Or(opts.Logger, slog.New(slog.DiscardHandler)),
	}
}

// Name identifies the certificate in logs of the API server's library.
func (m *Manager) Name() string { return "secret " + m.opts.Namespace + "/" + m.opts.Secret }

// CurrentCertKeyContent returns the serving certificate and its key as PEM; nil before the first
// round has succeeded.
func (m *Manager) CurrentCertKeyContent() (cert, key []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.cert, m.key
}

// AddListener has the listener told of every new certificate.
func (m *Manager) AddListener(l dynamiccertificates.Listener) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.listeners = append(m.listeners, l)
}

// Ready says why there is no certificate to serve with; nil when there is one.
func (m *Manager) Ready() error {
	if cert, _ := m.CurrentCertKeyContent(); cert == nil {
		return fmt.Errorf("there is no serving certificate yet from secret %s/%s", m.opts.Namespace, m.opts.Secret)
	}
	return nil
}

// Run looks after the certificate until ctx ends. Failures are logged, once for each kind in a row,
// and tried again. It has the form that dynamiccertificates.ControllerRunner asks for: the number is not used.
func (m *Manager) Run(ctx context.Context, _ int) {
	ticker := time.NewTicker(m.opts.Interval)
	defer ticker.Stop()
	for {
		err := m.RunOnce(ctx)
		m.tell(ctx, err)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// tell logs a failure that the round before did not have.
func (m *Manager) tell(ctx context.Context, err error) {
	m.round.Lock()
	defer m.round.Unlock()
	text := ""
	if err != nil {
		text = err.Error()
	}
	switch {
	case ctx.Err() != nil || text == m.failing:
		return
	case err != nil:
		m.log.WarnContext(ctx, "looking after the serving certificate failed; trying again", "error", err)
	default:
		m.log.InfoContext(ctx, "the serving certificate is in order again")
	}
	m.failing = text
}

// tries bounds how often a race for the Secret is lost in one round.
const tries = 10

// RunOnce is one round: it reads the Secret, renews what has to be, publishes the bundle, and takes
// the certificate into use. There may be a certificate although it fails: see [Manager.Ready].
func (m *Manager) RunOnce(ctx context.Context) error {
	m.round.Lock()
	defer m.round.Unlock()
	var s state
	var err error
	for range tries {
		s, err = m.settle(ctx)
		if !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("secret %s/%s: %w", m.opts.Namespace, m.opts.Secret, err)
	}
	bundle := s.bundle()
	if err := m.publish.Publish(ctx, bundle); err != nil {
		m.published = nil
		m.use(ctx, s.serving)
		return err
	}
	m.published = bundle
	m.use(ctx, s.serving)
	return nil
}

// settle reads the Secret and brings it up to date. A lost race is a conflict: the other's Secret
// is as good.
func (m *Manager) settle(ctx context.Context) (state, error) {
	secrets := m.client.CoreV1().Secrets(m.opts.Namespace)
	secret, err := secrets.Get(ctx, m.opts.Secret, metav1.GetOptions{})
	missing := apierrors.IsNotFound(err)
	if err != nil && !missing {
		return state{}, err
	}
	var have state
	if missing {
		secret = &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: m.opts.Secret, Namespace: m.opts.Namespace},
			Type:       corev1.SecretTypeOpaque,
		}
	} else if have, err = decode(secret.Data); err != nil {
		m.log.WarnContext(ctx, "parts of the certificates' secret can't be used and are made anew", "error", err)
	}
	published := bytes.Equal(m.published, have.bundle())
	want, changed, err := advance(have, m.names, time.Now(), m.opts.Overlap, published)
	if err != nil || !changed {
		return have, err
	}
	secret = secret.DeepCopy()
	secret.Data = want.encode()
	if missing {
		_, err = secrets.Create(ctx, secret, metav1.CreateOptions{})
	} else {
		_, err = secrets.Update(ctx, secret, metav1.UpdateOptions{})
	}
	if err != nil {
		return state{}, err
	}
	m.log.InfoContext(ctx, "certificates were renewed",
		"serving_until", want.servingEnd(), "authority_until", want.ca.cert.NotAfter, "next_authority", want.next != nil)
	return want, nil
}

// servingEnd is for the log.
func (s state) servingEnd() time.Time {
	if s.serving == nil {
		return time.Time{}
	}
	return s.serving.cert.NotAfter
}

// use makes the pair the one that is served.
func (m *Manager) use(ctx context.Context, p *pair) {
	if p == nil {
		return
	}
	m.mu.Lock()
	if bytes.Equal(p.certPEM, m.cert) {
		m.mu.Unlock()
		return
	}
	if _, err := tls.X509KeyPair(p.certPEM, p.keyPEM); err != nil {
		m.mu.Unlock()
		m.log.ErrorContext(ctx, "the serving certificate can't be used", "error", errors.Unwrap(err))
		return
	}
	m.cert, m.key = p.certPEM, p.keyPEM
	listeners := slices.Clone(m.listeners)
	m.mu.Unlock()
	for _, l := range listeners {
		l.Enqueue()
	}
}
