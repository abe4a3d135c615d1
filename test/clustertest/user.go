package clustertest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Grant is what a user may do in a namespace, or, with an empty Namespace, in the whole cluster.
type Grant struct {
	Namespace string
	Rules     []rbacv1.PolicyRule
}

// User makes a user who may do what the grants say and nothing else, and returns the path of a kubeconfig for them, whose
// namespace is that of the first grant. The rights are in force when it returns. The user is known by the name alone, so a
// test that runs beside others should choose one of its own, perhaps with the namespace in it.
func (e *Env) User(t testing.TB, name string, grants ...Grant) string {
	t.Helper()
	ctx := limited(t)
	for i, g := range grants {
		if err := e.grant(t, fmt.Sprintf("%s-%d", name, i), name, g); err != nil {
			t.Fatalf("user %s: %v", name, err)
		}
	}
	cert, key, err := e.sign(ctx, t, name)
	if err != nil {
		t.Fatalf("user %s: %v", name, err)
	}
	raw, err := clientcmd.LoadFromFile(e.Kubeconfig)
	if err != nil {
		t.Fatalf("user %s: %v", name, err)
	}
	if err := clientcmdapi.MinifyConfig(raw); err != nil {
		t.Fatalf("user %s: %v", name, err)
	}
	current := raw.Contexts[raw.CurrentContext]
	raw.AuthInfos = map[string]*clientcmdapi.AuthInfo{name: {ClientCertificateData: cert, ClientKeyData: key}}
	current.AuthInfo = name
	if len(grants) > 0 {
		current.Namespace = grants[0].Namespace
	}
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*raw, path); err != nil {
		t.Fatalf("user %s: %v", name, err)
	}
	return path
}

// grant makes a role and binds the user to it. Those of the whole cluster are deleted when the test ends.
func (e *Env) grant(t testing.TB, object, user string, g Grant) error {
	ctx, rbac := limited(t), e.Client.RbacV1()
	subjects := []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: user}}
	if g.Namespace != "" {
		m := metav1.ObjectMeta{Name: object}
		_, err := rbac.Roles(g.Namespace).Create(ctx, &rbacv1.Role{ObjectMeta: m, Rules: g.Rules}, metav1.CreateOptions{})
		_, err2 := rbac.RoleBindings(g.Namespace).Create(ctx, &rbacv1.RoleBinding{
			ObjectMeta: m, Subjects: subjects, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: object},
		}, metav1.CreateOptions{})
		if err := errors.Join(err, err2); err != nil {
			return err
		}
		return e.granted(ctx, subjects[0], g.Namespace, g.Rules)
	}
	m := metav1.ObjectMeta{GenerateName: "clustertest-" + object + "-"}
	role, err := rbac.ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: m, Rules: g.Rules}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), Limit)
		defer cancel()
		if err := rbac.ClusterRoles().Delete(ctx, role.Name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	binding, err := rbac.ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: m, Subjects: subjects, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), Limit)
		defer cancel()
		if err := rbac.ClusterRoleBindings().Delete(ctx, binding.Name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	return e.granted(ctx, subjects[0], "", g.Rules)
}

// sign has the cluster sign a client certificate. It is valid for a day.
func (e *Env) sign(ctx context.Context, t testing.TB, user string) (cert, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: user}}, private)
	if err != nil {
		return nil, nil, err
	}
	seconds := int32(24 * 60 * 60)
	api := e.Client.CertificatesV1().CertificateSigningRequests()
	csr, err := api.Create(ctx, &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "clustertest-"},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: request}),
			SignerName: certificatesv1.KubeAPIServerClientSignerName, ExpirationSeconds: &seconds,
			Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return nil, nil, err
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), Limit)
		defer cancel()
		if err := api.Delete(ctx, csr.Name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	csr.Status.Conditions = append(csr.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "Test", Message: "made by a test",
	})
	if _, err := api.UpdateApproval(ctx, csr.Name, csr, metav1.UpdateOptions{}); err != nil {
		return nil, nil, err
	}
	err = poll(ctx, func(ctx context.Context) error {
		signed, err := api.Get(ctx, csr.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if cert = signed.Status.Certificate; len(cert) == 0 {
			return errors.New("the certificate is not signed yet")
		}
		return nil
	})
	return cert, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), err
}
