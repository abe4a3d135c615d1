package kube

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"strings"
	"time"

	"k8s.io/client-go/rest"
)

// credentials are how the user proves who they are. Only their dates are ever looked at,
// and only to explain a refusal.
type credentials struct {
	name   string
	config *rest.Config
}

// advice says what to do about credentials that were refused.
func (c credentials) advice() string {
	if c.config == nil {
		return "Log in to the cluster again."
	}
	if at, ok := c.certificateEnd(); ok && time.Now().After(at) {
		return fmt.Sprintf("The client certificate of the kubeconfig expired on %s: get the kubeconfig again.", at.Format(time.DateTime))
	}
	if at, ok := c.tokenEnd(); ok && time.Now().After(at) {
		return fmt.Sprintf("The token of the kubeconfig expired on %s: log in again.", at.Format(time.DateTime))
	}
	if e := c.config.ExecProvider; e != nil {
		return fmt.Sprintf("The kubeconfig asks the program %q for credentials: log in again with the tool that it belongs to, then try \"kubectl auth whoami\".", e.Command)
	}
	return "They may have expired, been revoked, or belong to another cluster: log in again, then try \"kubectl auth whoami\"."
}

func (c credentials) certificateEnd() (time.Time, bool) {
	data := c.config.CertData
	if len(data) == 0 && c.config.CertFile != "" {
		data, _ = os.ReadFile(c.config.CertFile)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return time.Time{}, false
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return time.Time{}, false
	}
	return cert.NotAfter, true
}

// tokenEnd reads the date of a JSON web token, which most bearer tokens are.
func (c credentials) tokenEnd() (time.Time, bool) {
	token := c.config.BearerToken
	if token == "" && c.config.BearerTokenFile != "" {
		b, _ := os.ReadFile(c.config.BearerTokenFile)
		token = string(b)
	}
	parts := strings.Split(strings.TrimSpace(token), ".")
	if len(parts) != 3 {
		return time.Time{}, false
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return time.Time{}, false
	}
	var claims struct {
		Exp int64 `json:"exp"`
	}
	if json.Unmarshal(payload, &claims) != nil || claims.Exp == 0 {
		return time.Time{}, false
	}
	return time.Unix(claims.Exp, 0), true
}
