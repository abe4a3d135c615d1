// Package tlsport is how TLS ends on one port of a target, as data: what the resources
// MirrordTlsStealConfig and MirrordClusterTlsStealConfig say, in their own notation, on its way
// from the cluster to the agent. It names files of the target's container and holds no secrets.
//
// The package imports no Kubernetes types, because the agent links it.
package tlsport

import (
	"errors"
	"fmt"
	"path"
)

// Port is one entry of spec.ports. Package api/tlssteal documents its fields.
type Port struct {
	Port          uint16        `json:"port"`
	AgentAsServer AgentAsServer `json:"agentAsServer"`
	AgentAsClient AgentAsClient `json:"agentAsClient"`
}

// AgentAsServer is how the agent meets clients.
type AgentAsServer struct {
	Authentication Authentication      `json:"authentication"`
	ALPNProtocols  []string            `json:"alpnProtocols,omitempty"`
	Verification   *ClientVerification `json:"verification,omitempty"`
}

// AgentAsClient is how the agent meets the application.
type AgentAsClient struct {
	Authentication *Authentication    `json:"authentication,omitempty"`
	Verification   ServerVerification `json:"verification"`
}

// Authentication names a certificate and its key.
type Authentication struct {
	CertPEM string `json:"certPem"`
	KeyPEM  string `json:"keyPem"`
}

// ClientVerification is which certificates clients need.
type ClientVerification struct {
	AllowAnonymous bool     `json:"allowAnonymous,omitempty"`
	AcceptAnyCert  bool     `json:"acceptAnyCert,omitempty"`
	TrustRoots     []string `json:"trustRoots,omitempty"`
}

// ServerVerification is how the agent knows the application.
type ServerVerification struct {
	AcceptAnyCert bool     `json:"acceptAnyCert,omitempty"`
	ServerName    string   `json:"serverName,omitempty"`
	TrustRoots    []string `json:"trustRoots,omitempty"`
}

// maxPaths bounds the files of one list of trust roots, as named.
const maxPaths = 64

// Check says what can't work, whatever the files hold.
func (p Port) Check() error {
	if p.Port == 0 {
		return errors.New("there is no port 0")
	}
	s, c := p.AgentAsServer, p.AgentAsClient
	err := errors.Join(s.Authentication.check("agentAsServer.authentication"), checkALPN(s.ALPNProtocols))
	if v := s.Verification; v != nil {
		err = errors.Join(err, checkPaths("agentAsServer.verification.trustRoots", v.TrustRoots))
		if len(v.TrustRoots) == 0 && !v.AcceptAnyCert && !v.AllowAnonymous {
			err = errors.Join(err, errors.New("agentAsServer.verification takes no client: it needs trustRoots, acceptAnyCert or allowAnonymous"))
		}
	}
	if a := c.Authentication; a != nil {
		err = errors.Join(err, a.check("agentAsClient.authentication"))
	}
	err = errors.Join(err, checkPaths("agentAsClient.verification.trustRoots", c.Verification.TrustRoots))
	if len(c.Verification.TrustRoots) == 0 && !c.Verification.AcceptAnyCert {
		err = errors.Join(err, errors.New("agentAsClient.verification trusts no application: it needs trustRoots or acceptAnyCert"))
	}
	return err
}

func (a Authentication) check(field string) error {
	return errors.Join(checkPath(field+".certPem", a.CertPEM), checkPath(field+".keyPem", a.KeyPEM))
}

func checkPaths(field string, paths []string) error {
	if len(paths) > maxPaths {
		return fmt.Errorf("%s has more than %d entries", field, maxPaths)
	}
	var err error
	for i, p := range paths {
		err = errors.Join(err, checkPath(fmt.Sprintf("%s[%d]", field, i), p))
	}
	return err
}

func checkPath(field, p string) error {
	if !path.IsAbs(p) {
		return fmt.Errorf("%s must be an absolute path in the target's container, and is %q", field, p)
	}
	return nil
}

// checkALPN holds the names to what a ClientHello can carry (RFC 7301, section 3.1).
func checkALPN(protocols []string) error {
	if len(protocols) > 32 {
		return errors.New("agentAsServer.alpnProtocols has more than 32 entries")
	}
	for i, p := range protocols {
		if p == "" || len(p) > 255 {
			return fmt.Errorf("agentAsServer.alpnProtocols[%d] must have 1 to 255 bytes", i)
		}
	}
	return nil
}

// Find returns the entry for a port, the first one; nil without any.
func Find(ports []Port, port uint16) *Port {
	for i := range ports {
		if ports[i].Port == port {
			return &ports[i]
		}
	}
	return nil
}
