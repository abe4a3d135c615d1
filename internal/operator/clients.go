package operator

import (
	"fmt"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/mirrord-go/mirrord/internal/operator/options"
	"github.com/mirrord-go/mirrord/internal/version"
)

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

// connect makes the clients. Inside a cluster an empty Kubeconfig means the pod's own rights.
func (c *clients) connect(o *options.Options) (err error) {
	if o.Kubeconfig == "" {
		c.config, err = rest.InClusterConfig()
	} else {
		c.config, err = clientcmd.BuildConfigFromFlags("", o.Kubeconfig)
	}
	if err == nil {
		c.config.QPS, c.config.Burst = qps, burst
		c.config.UserAgent = "mirrord-operator/" + version.String()
		c.kube, err = kubernetes.NewForConfig(c.config)
	}
	if err == nil {
		c.dynamic, err = dynamic.NewForConfig(c.config)
	}
	if err == nil {
		c.meta, err = metadata.NewForConfig(c.config)
	}
	if err != nil {
		return fmt.Errorf("reaching the API server: %w", err)
	}
	return nil
}
