package e2e

import (
	"encoding/base64"
	"strings"
	"testing"

	"k8s.io/client-go/tools/clientcmd"
)

// tellsNothing checks that a call's output has nothing of the kubeconfig's credentials.
func (o outcome) tellsNothing(t *testing.T, kubeconfig string) {
	t.Helper()
	secrets := []string{"PRIVATE KEY", "secret-"}
	if raw, err := clientcmd.LoadFromFile(kubeconfig); err == nil {
		for _, u := range raw.AuthInfos {
			secrets = append(secrets, u.Token, string(u.ClientKeyData), base64.StdEncoding.EncodeToString(u.ClientKeyData))
		}
	}
	for _, secret := range secrets {
		if len(secret) > 0 && strings.Contains(o.stdout+o.stderr, secret) {
			t.Errorf("the output has a secret of the kubeconfig, %.12s…:\n%s%s", secret, o.stdout, o.stderr)
		}
	}
}
