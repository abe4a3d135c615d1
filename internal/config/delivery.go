package config

// DeliveryProtocol says how decrypted requests reach the local process.
type DeliveryProtocol string

// The protocols of a delivery; empty is DeliverTLS.
const (
	DeliverTLS DeliveryProtocol = "tls"
	DeliverTCP DeliveryProtocol = "tcp"
)

// TLSDelivery says how requests that the agent took out of TLS are given to the local process. The
// zero value is TLS with whatever certificate the process has. Paths are the laptop's.
type TLSDelivery struct {
	Protocol DeliveryProtocol `json:"protocol,omitempty"`
	// TrustRoots and ServerCert are not given together.
	TrustRoots []string `json:"trust_roots,omitempty"`
	ServerName string   `json:"server_name,omitempty"`
	ServerCert string   `json:"server_cert,omitempty"`
	// ClientCert and ClientKey are given together.
	ClientCert string `json:"client_cert,omitempty"`
	ClientKey  string `json:"client_key,omitempty"`
}

func (d TLSDelivery) isZero() bool {
	return d.Protocol == "" && d.TrustRoots == nil && d.ServerName+d.ServerCert+d.ClientCert+d.ClientKey == ""
}

// Delivery is how decrypted requests are delivered, under whichever name it was given.
func (i Incoming) Delivery() TLSDelivery {
	if i.TLSDelivery.isZero() {
		return i.HTTPSDelivery
	}
	return i.TLSDelivery
}

func (v *verifier) tlsDelivery() {
	const path = "feature.network.incoming."
	in := &v.c.Feature.Network.Incoming
	for name, d := range map[string]TLSDelivery{"tls_delivery": in.TLSDelivery, "https_delivery": in.HTTPSDelivery} {
		if d.TrustRoots != nil && d.ServerCert != "" {
			v.fail(path+name+".server_cert", "cannot be given together with trust_roots", "keep one of them")
		}
		switch {
		case d.ClientCert != "" && d.ClientKey == "":
			v.fail(path+name+".client_cert", "needs client_key", "name the file of its key; it may be the same")
		case d.ClientCert == "" && d.ClientKey != "":
			v.fail(path+name+".client_key", "needs client_cert", "name the file of its certificate")
		}
	}
	v.idleDelivery(in)
	if in.HTTPSDelivery.isZero() {
		return
	}
	if !in.TLSDelivery.isZero() {
		v.fail(path+"https_delivery", "cannot be given together with tls_delivery, which replaces it", "remove it")
	} else {
		v.warn(path+"https_delivery", "is deprecated", "name it tls_delivery")
	}
}

// idleDelivery warns of a delivery that nothing is delivered with.
func (v *verifier) idleDelivery(in *Incoming) {
	name := "tls_delivery"
	if in.TLSDelivery.isZero() {
		name = "https_delivery"
	}
	path := "feature.network.incoming." + name
	switch {
	case v.beforeProfile, in.Delivery().isZero():
	case in.Mode == IncomingMirror:
		v.warn(path, "has no effect: a mirror does not look into TLS", "")
	case in.Mode == IncomingSteal && !in.HTTPFilter.chooses():
		v.warn(path, "has no effect without a filter: connections reach the process as they come, TLS included",
			"give the process the target's certificate and key, or add http_filter")
	}
}
