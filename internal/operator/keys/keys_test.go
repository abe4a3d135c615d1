package keys

import (
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/mirrord-go/mirrord/internal/tunnel"
)

func secret(data map[string][]byte) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: Secret, Namespace: "mirrord"}, Data: data}
}

// TestReplicasShareOneKey: whether the Secret is there before or not, and whoever is first.
func TestReplicasShareOneKey(t *testing.T) {
	for name, client := range map[string]*fake.Clientset{
		"no secret":    fake.NewClientset(),
		"empty secret": fake.NewClientset(secret(nil)),
	} {
		t.Run(name, func(t *testing.T) {
			found := make([]tunnel.Fingerprint, 8)
			var wg sync.WaitGroup
			for i := range found {
				wg.Go(func() {
					id, err := Ensure(t.Context(), client, "mirrord")
					if err != nil {
						t.Error(err)
						return
					}
					found[i] = id.Fingerprint()
				})
			}
			wg.Wait()
			again, err := Ensure(t.Context(), client, "mirrord")
			if err != nil {
				t.Fatal(err)
			}
			// The fake client has no optimistic locking for updates, so that only the
			// creation of the Secret has one winner.
			if name == "no secret" {
				for i, f := range found {
					if f != again.Fingerprint() {
						t.Errorf("replica %d has the key %s, and the Secret %s", i, f, again.Fingerprint())
					}
				}
			}
		})
	}
}

func TestADamagedKeyIsNotReplaced(t *testing.T) {
	client := fake.NewClientset(secret(map[string][]byte{field: []byte("nonsense")}))
	if _, err := Ensure(t.Context(), client, "mirrord"); err == nil {
		t.Error("a damaged key was taken")
	}
	s, err := client.CoreV1().Secrets("mirrord").Get(t.Context(), Secret, metav1.GetOptions{})
	if err != nil || string(s.Data[field]) != "nonsense" {
		t.Errorf("the Secret has %q, %v", s.Data[field], err)
	}
}
