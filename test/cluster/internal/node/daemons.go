package node

import (
	"path/filepath"
	"strconv"

	"github.com/mirrord-go/mirrord/test/cluster/internal/layout"
)

// daemon is a program that runs as long as the node does.
type daemon struct {
	name string // of its log file
	path string
	args []string
}

func (s Spec) kubernetes(name string, args ...string) daemon {
	return daemon{name: name, path: filepath.Join(s.Programs.Kubernetes, name), args: args}
}

func (s Spec) pki(file string) string    { return filepath.Join(s.Layout.PKI(), file) }
func (s Spec) config(file string) string { return filepath.Join(s.Layout.Config(), file) }

func (s Spec) containerd() daemon {
	return daemon{name: "containerd", path: "containerd", args: []string{"--config", s.config("containerd.toml")}}
}

func (s Spec) etcd() daemon {
	return s.kubernetes("etcd",
		"--name=etcd", "--data-dir="+filepath.Join(s.Layout.Data(), "etcd"), "--log-level=warn",
		"--unsafe-no-fsync", // the data does not outlive the node
		"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
		"--listen-peer-urls=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380",
		"--initial-cluster=etcd=http://127.0.0.1:2380",
	)
}

// apiserver has the default admission plugins, PodSecurity among them, and NodeRestriction.
func (s Spec) apiserver() daemon {
	return s.kubernetes("kube-apiserver",
		"--etcd-servers=http://127.0.0.1:2379", "--secure-port=6443", "--allow-privileged=true",
		"--advertise-address="+s.Ranges.Node().Addr().String(),
		"--service-cluster-ip-range="+s.ranges(s.Ranges.Services(), s.Ranges.Services6()),
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--client-ca-file="+s.pki("ca.crt"), "--tls-cert-file="+s.pki("apiserver.crt"), "--tls-private-key-file="+s.pki("apiserver.key"),
		"--kubelet-certificate-authority="+s.pki("ca.crt"), "--kubelet-preferred-address-types=InternalIP",
		"--kubelet-client-certificate="+s.pki("apiserver-kubelet-client.crt"), "--kubelet-client-key="+s.pki("apiserver-kubelet-client.key"),
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file="+s.pki("sa.pub"), "--service-account-signing-key-file="+s.pki("sa.key"),
		"--requestheader-client-ca-file="+s.pki("front-proxy-ca.crt"), "--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file="+s.pki("front-proxy-client.crt"), "--proxy-client-key-file="+s.pki("front-proxy-client.key"),
		"--profiling=false", "--v=1",
	)
}

func (s Spec) controllerManager() daemon {
	kubeconfig := s.pki("controller-manager.kubeconfig")
	args := []string{
		"--kubeconfig=" + kubeconfig, "--authentication-kubeconfig=" + kubeconfig, "--authorization-kubeconfig=" + kubeconfig,
		"--bind-address=127.0.0.1", "--leader-elect=false", "--use-service-account-credentials=true",
		"--service-account-private-key-file=" + s.pki("sa.key"), "--root-ca-file=" + s.pki("ca.crt"),
		"--client-ca-file=" + s.pki("ca.crt"), "--requestheader-client-ca-file=" + s.pki("front-proxy-ca.crt"),
		"--cluster-signing-cert-file=" + s.pki("ca.crt"), "--cluster-signing-key-file=" + s.pki("ca.key"),
		"--allocate-node-cidrs=true", "--cluster-cidr=" + s.ranges(s.Ranges.Pods(), s.Ranges.Pods6()),
		"--node-cidr-mask-size-ipv4=" + strconv.Itoa(s.Ranges.Pods().Bits()),
		"--service-cluster-ip-range=" + s.ranges(s.Ranges.Services(), s.Ranges.Services6()),
		"--flex-volume-plugin-dir=/var/lib/kubelet/volume-plugins", // its default is on the machine
		// A node that says nothing for so long is busy: there is none that could take its pods.
		"--node-monitor-grace-period=10m", "--profiling=false", "--v=1",
	}
	if s.Ranges.IPv6 {
		args = append(args, "--node-cidr-mask-size-ipv6="+strconv.Itoa(s.Ranges.Pods6().Bits()))
	}
	return s.kubernetes("kube-controller-manager", args...)
}

func (s Spec) scheduler() daemon {
	kubeconfig := s.pki("scheduler.kubeconfig")
	return s.kubernetes("kube-scheduler",
		"--kubeconfig="+kubeconfig, "--authentication-kubeconfig="+kubeconfig, "--authorization-kubeconfig="+kubeconfig,
		"--bind-address=127.0.0.1", "--leader-elect=false", "--profiling=false", "--v=1",
	)
}

func (s Spec) kubelet() daemon {
	nodeIPs := s.Ranges.Node().Addr().String()
	if s.Ranges.IPv6 {
		nodeIPs += "," + s.Ranges.Node6().Addr().String()
	}
	return s.kubernetes("kubelet",
		"--config="+s.config("kubelet.yaml"), "--kubeconfig="+s.pki("node.kubeconfig"), "--hostname-override="+layout.NodeName,
		"--node-ip="+nodeIPs, "--root-dir=/var/lib/kubelet", "--v=2",
	)
}

func (s Spec) kubeProxy() daemon {
	return s.kubernetes("kube-proxy", "--config="+s.config("kube-proxy.yaml"), "--v=1")
}
