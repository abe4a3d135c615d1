package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mirrord-go/mirrord/test/clustertest"
)

// stage is one test's namespace with something to attach to.
type stage struct {
	*clustertest.Env
	ns string
}

// newStage makes a namespace, and the types and images that every test uses.
func newStage(t *testing.T) *stage {
	t.Helper()
	env := clustertest.New(t)
	build(t, env)
	return &stage{Env: env, ns: env.Namespace(t)}
}

// shop is the target of most tests: HTTP on 8080 (probed), TCP echo on 9000, UDP echo on
// 9001, bulk source and sink on 9002 and 9003, and a record of what it received on 8090.
// Probes wait long for an answer: a machine that stalls for some seconds makes no pod unready,
// and starts none again. What breaks their connections is seen all the same.
const shop = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop}
spec:
  selector: {matchLabels: {app: shop}}
  template:
    metadata: {labels: {app: shop}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: shop
        image: ` + clustertest.WorkloadImage + `
        imagePullPolicy: Never
        args: [serve, -http, ":8080", -admin, ":8090", -tcp, ":9000", -udp, ":9001", -source, ":9002", -sink, ":9003"]
        env:
        - {name: SHOP_COLOR, value: green}
        - {name: SHOP_EMPTY, value: ""}
        ports: [{containerPort: 8080, name: http}]
        readinessProbe: {httpGet: {path: /, port: http}, periodSeconds: 1, timeoutSeconds: 60}
        livenessProbe: {httpGet: {path: /, port: http}, periodSeconds: 1, timeoutSeconds: 60, failureThreshold: 2}
---
apiVersion: v1
kind: Service
metadata: {name: shop}
spec:
  ipFamilyPolicy: PreferDualStack
  selector: {app: shop}
  ports: [{name: http, port: 80, targetPort: 8080}, {name: echo, port: 9000}]
`

// db is something that the target talks to: TCP echo on 9000, UDP echo on 9001, bulk on
// 9002 and 9003, HTTP on 8080, which says who asks.
const db = `
apiVersion: v1
kind: Pod
metadata: {name: db, labels: {app: db}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: db
    image: ` + clustertest.WorkloadImage + `
    imagePullPolicy: Never
    args: [serve, -http, ":8080", -admin, ":8090", -tcp, ":9000", -udp, ":9001", -source, ":9002", -sink, ":9003"]
    readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1, timeoutSeconds: 60}
---
apiVersion: v1
kind: Service
metadata: {name: db}
spec:
  ipFamilyPolicy: PreferDualStack
  selector: {app: db}
  ports:
  - {name: http, port: 8080}
  - {name: tcp, port: 9000}
  - {name: udp, port: 9001, protocol: UDP}
  - {name: source, port: 9002}
  - {name: sink, port: 9003}
`

// client is a pod from which the tests ask others, with Exec.
const client = `
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: client, image: ` + clustertest.WorkloadImage + `, imagePullPolicy: Never, args: [sleep]}
`

// deploy applies manifests and waits for the named objects, for the Services of their names,
// and until the cluster's DNS knows all Services.
func (s *stage) deploy(t *testing.T, manifests string, ready ...string) {
	t.Helper()
	objects := s.Apply(t, s.ns, manifests)
	s.WaitReady(t, s.ns, ready...)
	for _, o := range objects {
		named := func(r string) bool { return strings.HasSuffix(r, "/"+o.GetName()) }
		if o.GetKind() != "Service" {
			continue
		}
		if slices.ContainsFunc(ready, named) {
			s.served(t, o.GetName())
		}
		s.named(t, o.GetName())
	}
}

// named waits until the cluster's DNS knows the name of a Service. It reads Services and their
// pods by itself, as the nodes do.
func (s *stage) named(t *testing.T, service string) {
	t.Helper()
	svc, err := s.Client.CoreV1().Services(s.ns).Get(t.Context(), service, metav1.GetOptions{})
	must(t, err)
	server, err := s.Client.CoreV1().Services("kube-system").Get(t.Context(), "kube-dns", metav1.GetOptions{})
	must(t, err)
	ask := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, net.JoinHostPort(server.Spec.ClusterIP, "53"))
	}}
	families := max(1, len(svc.Spec.IPFamilies))
	eventually(t, func() error {
		ips, err := ask.LookupNetIP(t.Context(), "ip", service+"."+s.ns+".svc.cluster.local.")
		if err == nil && len(ips) < families {
			err = fmt.Errorf("%s has the addresses %v, want %d families", service, ips, families)
		}
		return err
	})
}

// served waits until a Service accepts connections at all its addresses: the nodes learn of
// its pods, one family after the other, a moment after those are ready.
func (s *stage) served(t *testing.T, service string) {
	t.Helper()
	svc, err := s.Client.CoreV1().Services(s.ns).Get(t.Context(), service, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, ip := range svc.Spec.ClusterIPs {
		for _, port := range svc.Spec.Ports {
			if port.Protocol != corev1.ProtocolTCP || ip == corev1.ClusterIPNone {
				continue
			}
			eventually(t, func() error {
				c, err := net.DialTimeout("tcp", net.JoinHostPort(ip, fmt.Sprint(port.Port)), time.Second)
				if err != nil {
					return err
				}
				return c.Close()
			})
		}
	}
}

// shopPod returns the name and the address of the shop's pod.
func (s *stage) shopPod(t *testing.T) (name, ip string) {
	t.Helper()
	pods := s.Pods(t, s.ns, "app=shop")
	if len(pods) != 1 {
		t.Fatalf("the shop has %d pods", len(pods))
	}
	return pods[0].Name, pods[0].Status.PodIP
}

// answer is what the workload's clients print for a request.
type answer struct {
	Status int    `json:"status"`
	Local  string `json:"local"`
	Reused bool   `json:"reused"`
	Body   string `json:"body"`
	Error  string `json:"error"`
	Echo   *struct {
		Name   string `json:"name"`
		Peer   string `json:"peer"`
		SHA256 string `json:"sha256"`
	} `json:"echo"`
}

// ask makes one HTTP request from the client pod.
func (s *stage) ask(t *testing.T, url string, flags ...string) answer {
	t.Helper()
	args := append([]string{"/bin/workload", "get", "-timeout", "60s"}, flags...)
	res := s.Exec(t, s.ns, "client", "client", append(args, url)...)
	var a answer
	if err := json.Unmarshal([]byte(res.Stdout), &a); err != nil {
		t.Fatalf("asking %s: exit code %d\n%s%s", url, res.Code, res.Stdout, res.Stderr)
	}
	return a
}

// given are the ports that freePort has returned.
var given struct {
	sync.Mutex
	ports map[uint16]bool
}

// freePort returns a port that is free on this machine, and outside of the range from which
// the system takes ports for connections. Local processes listen on the port that the target
// has, and several tests may run on one machine.
func freePort(t *testing.T) uint16 {
	t.Helper()
	given.Lock()
	defer given.Unlock()
	if given.ports == nil {
		given.ports = map[uint16]bool{}
	}
	for range 100 {
		port := uint16(20000 + rand.N(10000))
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			continue
		}
		l.Close()
		if !given.ports[port] {
			given.ports[port] = true
			return port
		}
	}
	t.Fatal("no port is free")
	return 0
}

// web is a pod "web" that serves HTTP on the ports and has its record on 8090. Nothing probes
// the ports. Spec is added to the pod's spec.
func web(ports []uint16, spec ...string) string {
	var addrs []string
	for _, p := range ports {
		addrs = append(addrs, fmt.Sprintf(":%d", p))
	}
	return `
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 1
  ` + strings.Join(spec, "\n  ") + `
  containers:
  - name: web
    image: ` + clustertest.WorkloadImage + `
    imagePullPolicy: Never
    args: [serve, -admin, ":8090", -http, "` + strings.Join(addrs, ",") + `"]
    readinessProbe: {tcpSocket: {port: 8090}, periodSeconds: 1, timeoutSeconds: 60}
`
}

// webTarget is a configuration's target for the pod of [web].
func (s *stage) webTarget() object { return object{"path": "pod/web", "namespace": s.ns} }

// ips returns the addresses of a pod, the IPv4 one first.
func (s *stage) ips(t *testing.T, pod string) (ip4, ip6 string) {
	t.Helper()
	for _, ip := range s.Pod(t, s.ns, pod).Status.PodIPs {
		if netip.MustParseAddr(ip.IP).Is4() {
			ip4 = ip.IP
		} else {
			ip6 = ip.IP
		}
	}
	if ip4 == "" || ip6 == "" {
		t.Fatalf("pod %s has the addresses %q and %q, want both families", pod, ip4, ip6)
	}
	return ip4, ip6
}

// url is the address of an HTTP server.
func url[P uint16 | int](ip string, port P) string {
	return "http://" + net.JoinHostPort(ip, fmt.Sprint(port)) + "/"
}
