package e2e

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/mirrord-go/mirrord/test/clustertest"
)

const servingSecret = "mirrord-operator-serving"

// TestOperatorCertManager is the operator with certificates that cert-manager makes. Its resource types are the real ones; the
// work of its programs is done by [issuer], since none of their images is here.
func TestOperatorCertManager(t *testing.T) {
	withCertManagersTypes(t)
	i := withoutOperator(t)
	cm := newIssuer(t, i.env)
	stdout, _ := i.mustInstall("--set", "tls.certManager.enabled=true")
	for _, want := range []string{"Certificate mirrord/mirrord-operator created", "Issuer mirrord/mirrord-operator-authority created"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("%q is not among what was made:\n%s", want, stdout)
		}
	}
	if err := i.serves(t.Context()); err != nil {
		t.Fatalf("installed, and does not serve: %v", err)
	}
	i.checkStatus()
	before := i.operatorPods()
	first := cm.certificate(t)
	for _, pod := range before {
		if got, err := served(t.Context(), pod); err != nil || !got.Equal(first) {
			t.Errorf("pod %s does not serve with the certificate of the Secret: %v", pod.Name, err)
		}
	}

	i.servesThroughout("while the certificate was renewed", func(int) {
		first := cm.certificate(t)
		cm.renew(t)
		next := cm.certificate(t)
		if next.Equal(first) {
			t.Fatal("the certificate was not renewed")
		}
		for _, pod := range before {
			turn := 0
			eventually(t, func() error {
				if turn++; turn%20 == 1 {
					// The kubelet looks at a pod's Secrets when the pod changes, or after a minute or so.
					patch := fmt.Appendf(nil, `{"metadata":{"annotations":{"test/turn":"%d"}}}`, turn)
					if _, err := i.env.Client.CoreV1().Pods(pod.Namespace).Patch(t.Context(), pod.Name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
						return err
					}
				}
				got, err := served(t.Context(), pod)
				if err == nil && !got.Equal(next) {
					err = fmt.Errorf("pod %s serves with the certificate of before", pod.Name)
				}
				return err
			})
		}
	})
	for n, pod := range i.operatorPods() {
		if pod.UID != before[n].UID || pod.Status.ContainerStatuses[0].RestartCount != before[n].Status.ContainerStatuses[0].RestartCount {
			t.Errorf("pod %s was started again", pod.Name)
		}
	}
}

// withCertManagersTypes gives the cluster the resource types of the version that test/chart names.
func withCertManagersTypes(t *testing.T) {
	t.Helper()
	env := clustertest.New(t)
	// The first command fetches what a machine does not have yet; the sums of test/chart say what it is.
	for _, args := range [][]string{{"mod", "download"}, {"list", "-m", "-f", "{{.Dir}}"}} {
		var stderr bytes.Buffer
		cmd := exec.CommandContext(t.Context(), "go", append(args, "github.com/cert-manager/cert-manager")...)
		cmd.Dir, cmd.Stderr = filepath.Join("..", "chart"), &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("the module of cert-manager: %v\n%s", err, stderr.Bytes())
		}
		if args[0] == "mod" {
			continue
		}
		for _, plural := range []string{"certificates", "issuers"} {
			text, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(out)), "deploy", "crds", "cert-manager.io_"+plural+".yaml"))
			if err != nil {
				t.Fatal(err)
			}
			env.Apply(t, "", string(text))
			t.Cleanup(func() {
				ctx, cancel := context.WithTimeout(context.Background(), patience)
				defer cancel()
				if err := env.Dynamic.Resource(definitions).Delete(ctx, plural+".cert-manager.io", metav1.DeleteOptions{}); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

var (
	definitions  = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	certificates = schema.GroupVersionResource{Group: "cert-manager.io", Version: "v1", Resource: "certificates"}
	issuers      = schema.GroupVersionResource{Group: "cert-manager.io", Version: "v1", Resource: "issuers"}
)

// operatorPods are the operator's pods by name.
func (i *installation) operatorPods() []corev1.Pod {
	i.Helper()
	pods := i.env.Pods(i.T, "mirrord", "app.kubernetes.io/name=mirrord-operator")
	slices.SortFunc(pods, func(a, b corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	return pods
}

// served is the certificate that a pod of the operator shows.
func served(ctx context.Context, pod corev1.Pod) (*x509.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}} // it is compared
	conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(pod.Status.PodIP, "8443"))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.(*tls.Conn).ConnectionState().PeerCertificates[0], nil
}

// issuer does for the operator's installation what cert-manager does: it makes the Secrets of Certificates, self-signed or signed by the
// authority of another one, as their issuers say, and writes the authority where the annotation of the APIService wants it.
type issuer struct {
	env *clustertest.Env

	mu   sync.Mutex
	last error // of the last round
}

func newIssuer(t *testing.T, env *clustertest.Env) *issuer {
	t.Helper()
	cm := &issuer{env: env}
	ctx, cancel := context.WithCancel(context.Background())
	var working sync.WaitGroup
	working.Go(func() {
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			err := cm.round(ctx)
			cm.mu.Lock()
			cm.last = err
			cm.mu.Unlock()
		}
	})
	t.Cleanup(func() {
		cancel()
		working.Wait()
		if t.Failed() {
			t.Logf("the issuer's last word: %v", cm.last)
		}
	})
	return cm
}

// round does what is to be done.
func (cm *issuer) round(ctx context.Context) error {
	list, err := cm.env.Dynamic.Resource(certificates).Namespace("mirrord").List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	var all []error
	for _, c := range list.Items {
		all = append(all, cm.issue(ctx, &c))
	}
	return errors.Join(append(all, cm.inject(ctx))...)
}

// wanted is the part of a Certificate that is needed here.
type wanted struct {
	SecretName string
	IsCA       bool
	CommonName string
	DNSNames   []string
	IssuerRef  struct{ Name string }
}

func (cm *issuer) issue(ctx context.Context, c *unstructured.Unstructured) error {
	text, err := c.MarshalJSON()
	if err != nil {
		return err
	}
	var read struct{ Spec wanted }
	if err := json.Unmarshal(text, &read); err != nil {
		return err
	}
	spec := read.Spec
	secrets := cm.env.Client.CoreV1().Secrets(c.GetNamespace())
	if _, err := secrets.Get(ctx, spec.SecretName, metav1.GetOptions{}); err == nil || !apierrors.IsNotFound(err) {
		return err // it is there
	}
	by, err := cm.env.Dynamic.Resource(issuers).Namespace(c.GetNamespace()).Get(ctx, spec.IssuerRef.Name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("the issuer of %s: %w", c.GetName(), err)
	}
	var authority *corev1.Secret
	if name, _, _ := unstructured.NestedString(by.Object, "spec", "ca", "secretName"); name != "" {
		if authority, err = secrets.Get(ctx, name, metav1.GetOptions{}); err != nil {
			return fmt.Errorf("the authority for %s: %w", c.GetName(), err)
		}
	} else if _, self, _ := unstructured.NestedMap(by.Object, "spec", "selfSigned"); !self {
		return fmt.Errorf("the issuer of %s is of no known kind", c.GetName())
	}
	data, err := sign(&spec, authority)
	if err != nil {
		return err
	}
	_, err = secrets.Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: spec.SecretName}, Type: corev1.SecretTypeTLS, Data: data}, metav1.CreateOptions{})
	return err
}

// sign makes a Secret's data, signed by itself without an authority.
func sign(spec *wanted, authority *corev1.Secret) (map[string][]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100))
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: spec.CommonName}, DNSNames: spec.DNSNames, IsCA: spec.IsCA, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if spec.IsCA {
		template.KeyUsage, template.ExtKeyUsage = x509.KeyUsageCertSign, nil
	}
	parent, signer := template, key
	var root []byte
	if authority != nil {
		pair, err := tls.X509KeyPair(authority.Data["tls.crt"], authority.Data["tls.key"])
		if err != nil {
			return nil, err
		}
		parent, signer, root = pair.Leaf, pair.PrivateKey.(*ecdsa.PrivateKey), authority.Data["tls.crt"]
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		return nil, err
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if root == nil {
		root = cert
	}
	return map[string][]byte{
		"tls.crt": cert, "ca.crt": root, "tls.key": pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private}),
	}, nil
}

// inject writes the authority to the APIService.
func (cm *issuer) inject(ctx context.Context) error {
	services := cm.env.Dynamic.Resource(apiServices)
	service, err := services.Get(ctx, sessionsAPI, metav1.GetOptions{})
	if err != nil {
		return err
	}
	from := service.GetAnnotations()["cert-manager.io/inject-ca-from"]
	namespace, name, _ := strings.Cut(from, "/")
	c, err := cm.env.Dynamic.Resource(certificates).Namespace(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("the certificate %q of the APIService: %w", from, err)
	}
	secret, _, _ := unstructured.NestedString(c.Object, "spec", "secretName")
	s, err := cm.env.Client.CoreV1().Secrets(namespace).Get(ctx, secret, metav1.GetOptions{})
	if err != nil {
		return err
	}
	bundle := base64.StdEncoding.EncodeToString(s.Data["ca.crt"])
	if have, _, _ := unstructured.NestedString(service.Object, "spec", "caBundle"); have == bundle {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"caBundle": bundle}})
	if err != nil {
		return err
	}
	_, err = services.Patch(ctx, sessionsAPI, types.MergePatchType, patch, metav1.PatchOptions{})
	return err
}

// certificate is the one of the operator's Secret.
func (cm *issuer) certificate(t *testing.T) *x509.Certificate {
	t.Helper()
	s, err := cm.env.Client.CoreV1().Secrets("mirrord").Get(t.Context(), servingSecret, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(s.Data["tls.crt"])
	if block == nil {
		t.Fatal("the Secret has no certificate")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// renew puts a new certificate and a new key in the place of the operator's.
func (cm *issuer) renew(t *testing.T) {
	t.Helper()
	secrets := cm.env.Client.CoreV1().Secrets("mirrord")
	s, err := secrets.Get(t.Context(), servingSecret, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	authority, err := secrets.Get(t.Context(), "mirrord-operator-authority", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if s.Data, err = sign(&wanted{DNSNames: cm.certificate(t).DNSNames}, authority); err != nil {
		t.Fatal(err)
	}
	if _, err := secrets.Update(t.Context(), s, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}
