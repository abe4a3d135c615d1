// Package keys keeps the key by which agents know the operator.
//
// All replicas share one, in a Secret of the operator's namespace. It is made by the first
// replica that finds none. Agents are started with its fingerprint; whoever can read the
// Secret can make agents do what the operator can.
package keys

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/mirrord-go/mirrord/internal/tunnel"
)

// Secret is the name of the Secret.
const Secret = "mirrord-operator-agent-key"

// field is the key's name in the Secret.
const field = "operator.key"

// tries bounds how often a race with other replicas is run again.
const tries = 5

// Ensure returns the operator's identity for agents, from the Secret of the namespace. One that
// is not there is made; one that is there without a key gets one.
func Ensure(ctx context.Context, client kubernetes.Interface, namespace string) (*tunnel.Identity, error) {
	secrets := client.CoreV1().Secrets(namespace)
	var last error
	for range tries {
		s, err := secrets.Get(ctx, Secret, metav1.GetOptions{})
		missing := apierrors.IsNotFound(err)
		switch {
		case err != nil && !missing:
			return nil, fmt.Errorf("reading Secret %s of namespace %s: %w", Secret, namespace, err)
		case err == nil && len(s.Data[field]) > 0:
			id, err := tunnel.ParseIdentity(s.Data[field])
			if err != nil {
				return nil, fmt.Errorf("secret %s of namespace %s, field %q: %w; empty the field, and a new key is made", Secret, namespace, field, err)
			}
			return id, nil
		}
		id, err := tunnel.NewIdentity()
		if err != nil {
			return nil, err
		}
		text, err := id.PrivateKeyPEM()
		if err != nil {
			return nil, err
		}
		if missing {
			s = &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: Secret, Namespace: namespace}}
		}
		s.Data = map[string][]byte{field: text}
		if missing {
			_, err = secrets.Create(ctx, s, metav1.CreateOptions{})
		} else {
			_, err = secrets.Update(ctx, s, metav1.UpdateOptions{})
		}
		switch {
		case err == nil:
			return id, nil
		case apierrors.IsAlreadyExists(err), apierrors.IsConflict(err):
			last = err // another replica was faster: its key counts
		default:
			return nil, fmt.Errorf("writing Secret %s of namespace %s: %w", Secret, namespace, err)
		}
	}
	return nil, fmt.Errorf("writing Secret %s of namespace %s: %w", Secret, namespace, last)
}
