package operator

import (
	"context"
	"fmt"
	"log/slog"
	"net"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/mirrord-go/mirrord/internal/operator/options"
	"github.com/mirrord-go/mirrord/internal/version"
)

// Run runs the operator until ctx ends, and then until what is under way has ended, too. The
// options are valid.
func Run(ctx context.Context, o *options.Options, log *slog.Logger) error {
	c, err := connect(o)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", o.ListenAddress)
	if err != nil {
		return fmt.Errorf("listening for the API: %w", err)
	}
	_ = c
	return listener.Close()
}

// clients are the ways to speak to the API server.
type clients struct {
	config  *rest.Config
	kube    kubernetes.Interface
	dynamic dynamic.Interface
	meta    metadata.Interface
}

// What the operator may ask of the API server, in requests a second. Sessions start in
// crowds.
const (
	qps   = 200
	burst = 400
)

func connect(o *options.Options) (*clients, error) {
	config, err := clientcmd.BuildConfigFromFlags("", o.Kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("reaching the API server: %w", err)
	}
	config.QPS, config.Burst = qps, burst
	config.UserAgent = "mirrord-operator/" + version.String()
	c := &clients{config: config}
	if c.kube, err = kubernetes.NewForConfig(config); err != nil {
		return nil, fmt.Errorf("reaching the API server: %w", err)
	}
	if c.dynamic, err = dynamic.NewForConfig(config); err != nil {
		return nil, fmt.Errorf("reaching the API server: %w", err)
	}
	if c.meta, err = metadata.NewForConfig(config); err != nil {
		return nil, fmt.Errorf("reaching the API server: %w", err)
	}
	return c, nil
}
