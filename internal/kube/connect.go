package kube

import (
	"cmp"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	// OIDC is the one way to log in that client-go keeps in a package of its own.
	_ "k8s.io/client-go/plugin/pkg/client/auth/oidc"
	"k8s.io/client-go/rest"
)

// Options say which cluster to talk to, as whom.
type Options struct {
	// Kubeconfig is a file; empty means $KUBECONFIG, then ~/.kube/config, then the
	// service account of the pod that this process runs in.
	Kubeconfig string
	// Context is one of the kubeconfig's; empty means its current one.
	Context string
	// AcceptInvalidCertificates turns the check of the server's certificate off (true) or
	// on (false); nil leaves it to the kubeconfig.
	AcceptInvalidCertificates *bool
	// UserAgent names the program to the server and its audit log; empty means "mirrord".
	UserAgent string
	// QPS and Burst bound requests per second on this side; 0 means 50 and 100. The
	// server bounds them too.
	QPS   float32
	Burst int
	// Logger gets what only a developer of mirrord wants to read; nil drops it.
	Logger *slog.Logger
}

// Cluster is one context of a kubeconfig. Its methods may be called at once from any
// goroutine. Nothing is sent before the first call that needs an answer.
type Cluster struct {
	config    *rest.Config
	http      *http.Client
	clients   map[schema.GroupVersion]rest.Interface
	params    runtime.ParameterCodec
	log       *slog.Logger
	user      credentials
	context   string
	namespace string
	userName  atomic.Pointer[string]
	webSocket atomic.Bool // port-forwards go through WebSocket, for SPDY does not work
}

// dialTimeout bounds how long a connection to the API server may take to come about.
const dialTimeout = 10 * time.Second

// Connect reads the kubeconfig and prepares a client. It does not wait for the server. A
// kubeconfig that is missing, malformed or without such a context is an [*Error] with
// [ReasonKubeconfig].
func Connect(opts Options) (*Cluster, error) {
	loaded, err := loadConfig(opts)
	if err != nil {
		return nil, err
	}
	c := &Cluster{
		log:       cmp.Or(opts.Logger, slog.New(slog.DiscardHandler)),
		context:   loaded.context,
		namespace: loaded.namespace,
		user:      loaded.user,
		config:    rest.CopyConfig(loaded.rest),
	}
	c.config.UserAgent = cmp.Or(opts.UserAgent, "mirrord")
	c.config.QPS = cmp.Or(opts.QPS, 50)
	c.config.Burst = cmp.Or(opts.Burst, 100)
	c.config.WarningHandlerWithContext = warnings{c.log}
	c.config.Dial = (&net.Dialer{Timeout: dialTimeout, KeepAlive: 15 * time.Second}).DialContext
	if v := opts.AcceptInvalidCertificates; v != nil {
		c.config.Insecure = *v
		if *v {
			c.config.CAData, c.config.CAFile = nil, ""
		}
	}
	if err := c.makeClients(); err != nil {
		return nil, loaded.broken(err)
	}
	return c, nil
}

// makeClients makes one REST client per API group, all over the same connections. The
// scheme knows just these groups: registering all of client-go's costs every start of the
// program some milliseconds.
func (c *Cluster) makeClients() error {
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	groups := []schema.GroupVersion{
		corev1.SchemeGroupVersion, appsv1.SchemeGroupVersion,
		batchv1.SchemeGroupVersion, authorizationv1.SchemeGroupVersion, authenticationv1.SchemeGroupVersion,
	}
	for _, add := range []func(*runtime.Scheme) error{
		corev1.AddToScheme, appsv1.AddToScheme, batchv1.AddToScheme, authorizationv1.AddToScheme, authenticationv1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			return fmt.Errorf("registering API types: %w", err)
		}
	}
	c.params = runtime.NewParameterCodec(scheme)

	var err error
	if c.http, err = rest.HTTPClientFor(c.config); err != nil {
		return err
	}
	c.clients = make(map[schema.GroupVersion]rest.Interface, len(groups))
	for _, gv := range groups {
		cfg := rest.CopyConfig(c.config)
		cfg.GroupVersion = &gv
		cfg.APIPath = "/apis"
		if gv.Group == "" {
			cfg.APIPath = "/api"
		}
		cfg.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
		cfg.ContentType = runtime.ContentTypeProtobuf
		cfg.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
		if c.clients[gv], err = rest.RESTClientForConfigAndClient(cfg, c.http); err != nil {
			return err
		}
	}
	return nil
}

// Namespace is the context's default namespace; "default" when it names none.
func (c *Cluster) Namespace() string { return c.namespace }

// Context is the name of the kubeconfig's context; "in-cluster" for a pod's own account.
func (c *Cluster) Context() string { return c.context }

// Server is the URL of the API server.
func (c *Cluster) Server() string { return c.config.Host }

// Close ends idle connections to the server. Agents that are still dialled stay so.
func (c *Cluster) Close() error {
	c.http.CloseIdleConnections()
	return nil
}
