// Package apiserver serves the API group sessions.mirrord.metalbear.co, as an API server behind
// Kubernetes' own (the aggregation layer).
//
// Requests come from the front proxy, the Kubernetes API server, which has authenticated the
// user; nobody else is let in, whatever headers they send ([Authenticator]). Whether the user
// may do what they ask for is asked of Kubernetes again, by SubjectAccessReview. What then
// happens is up to the [Sessions], [Targets] and [Carriers] that the server is made with.
//
// Nothing is kept here, and any number of servers may run.
package apiserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/apiserver/pkg/authentication/authenticatorfactory"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/openapi"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	genericfilters "k8s.io/apiserver/pkg/server/filters"
	"k8s.io/apiserver/pkg/server/healthz"
	"k8s.io/apiserver/pkg/util/compatibility"
	clientrest "k8s.io/client-go/rest"
	basecompatibility "k8s.io/component-base/compatibility"

	sessions "github.com/mirrord-go/mirrord/api/sessions/v1alpha"
	"github.com/mirrord-go/mirrord/internal/gather"
	definitions "github.com/mirrord-go/mirrord/internal/operator/apiserver/openapi"
)

// Config is what a server is made of. All fields are required but Counter and Log.
type Config struct {
	// Listener is where the API is served. The server closes it.
	Listener net.Listener
	// Certificate is what the server shows; it may change while the server runs.
	Certificate dynamiccertificates.CertKeyContentProvider
	// FrontProxy is who is let in; see [FrontProxy].
	FrontProxy *authenticatorfactory.RequestHeaderConfig
	// Authorizer decides about requests that were let in.
	Authorizer authorizer.Authorizer

	Sessions Sessions
	Targets  Targets
	Carriers Carriers
	// Counter, when not nil, is told of carriers.
	Counter Counter

	// LeaveDelay is how long a server that stops still answers requests, until the front
	// proxy knows that it is not to be asked any more. Carriers end at once.
	LeaveDelay time.Duration
	// Version is the operator's build.
	Version string
	// Log receives what the server does; nil discards it.
	Log *slog.Logger
}

// Bounds of requests. A session's specification is a few KiB.
const (
	maxBody    = 256 << 10
	maxReads   = 1000
	maxWrites  = 500
	maxStreams = 1000
)

// Server is an API server; [New] makes one.
type Server struct {
	generic *genericapiserver.GenericAPIServer
	connect *connectREST
}

// New makes a server. It serves when [Server.Run] is called.
func New(c Config) (*Server, error) {
	log := c.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	scheme, err := newScheme()
	if err != nil {
		return nil, err
	}
	config, err := c.generic(scheme, log)
	if err != nil {
		return nil, err
	}
	generic, err := config.Complete(nil).New("mirrord-operator", genericapiserver.NewEmptyDelegate())
	if err != nil {
		return nil, fmt.Errorf("making the API server: %w", err)
	}
	connect := newConnectREST(c.Carriers, c.Counter, log)
	info := genericapiserver.NewDefaultAPIGroupInfo(sessions.GroupName, scheme, runtime.NewParameterCodec(scheme), newCodecs(scheme))
	info.VersionedResourcesStorageMap[sessions.GroupVersion.Version] = map[string]rest.Storage{
		"targets":          &targetsREST{targets: c.Targets},
		"sessions":         &sessionsREST{sessions: c.Sessions},
		"sessions/connect": connect,
	}
	if err := generic.InstallAPIGroup(&info); err != nil {
		return nil, fmt.Errorf("making the API server: %w", err)
	}
	return &Server{generic: generic, connect: connect}, nil
}

// generic is the configuration of the library's server.
func (c *Config) generic(scheme *runtime.Scheme, log *slog.Logger) (*genericapiserver.Config, error) {
	config := genericapiserver.NewConfig(newCodecs(scheme))
	port, err := portOf(c.Listener)
	if err != nil {
		return nil, err
	}
	config.ExternalAddress = net.JoinHostPort("localhost", strconv.Itoa(port))
	config.SecureServing = &genericapiserver.SecureServingInfo{
		Listener:                     gatherers{c.Listener},
		Cert:                         c.Certificate,
		ClientCA:                     c.FrontProxy.CAContentProvider,
		HTTP2MaxStreamsPerConnection: maxStreams,
	}
	auth := authenticatorfactory.DelegatingAuthenticatorConfig{RequestHeaderConfig: c.FrontProxy}
	if config.Authentication.Authenticator, _, err = auth.New(); err != nil {
		return nil, fmt.Errorf("making the authenticator: %w", err)
	}
	config.Authentication.RequestHeaderConfig = c.FrontProxy
	config.Authorization.Authorizer = c.Authorizer
	// Post-start hooks of the library's want a client for the server itself; there are none.
	config.LoopbackClientConfig = &clientrest.Config{}
	config.EffectiveVersion = effectiveVersion(c.Version)
	config.EnableProfiling, config.EnableIndex, config.EnableMetrics = false, false, false
	ping := []healthz.HealthChecker{healthz.PingHealthz}
	config.HealthzChecks, config.LivezChecks, config.ReadyzChecks = ping, ping, ping
	config.MaxRequestBodyBytes = maxBody
	config.MaxRequestsInFlight, config.MaxMutatingRequestsInFlight = maxReads, maxWrites
	config.RequestTimeout = requestTimeout
	config.ShutdownWatchTerminationGracePeriod = watchDrain
	config.ShutdownDelayDuration = c.LeaveDelay
	config.AuditBackend, config.AuditPolicyRuleEvaluator = auditLog{log}, auditLog{log}
	config.ShutdownSendRetryAfter = true
	config.LongRunningFunc = genericfilters.BasicLongRunningRequestCheck(sets.NewString("watch"), sets.NewString("connect"))
	namer := openapi.NewDefinitionNamer(scheme)
	config.OpenAPIConfig = genericapiserver.DefaultOpenAPIConfig(definitions.GetOpenAPIDefinitions, namer)
	config.OpenAPIConfig.Info.Title, config.OpenAPIConfig.Info.Version = "mirrord sessions", c.Version
	config.OpenAPIV3Config = genericapiserver.DefaultOpenAPIV3Config(definitions.GetOpenAPIDefinitions, namer)
	config.OpenAPIV3Config.Info.Title, config.OpenAPIV3Config.Info.Version = "mirrord sessions", c.Version
	return config, nil
}

// requestTimeout bounds requests that are not meant to last. It leaves time for an agent's
// image to be pulled when a session is created.
const requestTimeout = 2 * time.Minute

// watchDrain is how long watches may take to end when the server does.
const watchDrain = 2 * time.Second

// effectiveVersion makes /version tell the operator's build; nothing depends on it otherwise.
func effectiveVersion(build string) basecompatibility.EffectiveVersion {
	v := compatibility.DefaultBuildEffectiveVersion()
	return versioned{v, build}
}

type versioned struct {
	basecompatibility.EffectiveVersion
	build string
}

func (v versioned) Info() *version.Info { return &version.Info{GitVersion: v.build} }

// gatherers is a listener of connections of which carriers can be made that read and write much at a time.
type gatherers struct{ net.Listener }

// Accept implements [net.Listener].
func (l gatherers) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return gather.New(c, true), nil
}

func portOf(l net.Listener) (int, error) {
	a, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		return 0, errors.New("making the API server: its listener is no TCP listener")
	}
	return a.Port, nil
}

// Run serves until ctx ends. Then carriers end at once, so that clients take them up again at
// another replica; other requests are let finish.
func (s *Server) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, s.connect.close)
	defer stop()
	defer s.connect.close()
	return s.generic.PrepareRun().RunWithContext(ctx)
}
