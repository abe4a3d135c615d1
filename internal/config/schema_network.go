package config

func incomingOff(c *Config) bool { return c.Feature.Network.Incoming.Mode == IncomingOff }

func networkFields() []Field {
	incoming := func(f Field) Field {
		f.Path = "feature.network.incoming." + f.Path
		f.byProfile = true
		if f.moot == nil {
			f.moot = incomingOff
		}
		return f
	}
	fields := []Field{
		incoming(Field{
			Path: "mode", kind: kindText, Enum: []string{"mirror", "steal", "off"}, Default: string(IncomingMirror),
			Env: []string{"MIRRORD_AGENT_TCP_STEAL_TRAFFIC"}, Flag: "--steal", parse: parseIncomingMode,
			bind: atText(func(c *Config) *IncomingMode { return &c.Feature.Network.Incoming.Mode }),
			Doc:  "mirror gives the local process a copy of the target's traffic, steal gives it the traffic instead of the target. The variable may also be true for steal and false for off.",
		}),
		incoming(Field{
			Path: "port_mapping", kind: kindPortPairs, check: checkPortMapping,
			bind: atList(func(c *Config) *[][2]uint16 { return &c.Feature.Network.Incoming.PortMapping }),
			Doc:  "Pairs [local, remote]: the process listens on the first, and gets the traffic of the target's second.",
		}),
		incoming(Field{
			Path: "ports", kind: kindPort, bind: atList(func(c *Config) *[]uint16 { return &c.Feature.Network.Incoming.Ports }),
			Doc: "The only ports of the target whose traffic is taken. Not together with ignore_ports.",
		}),
		incoming(Field{
			Path: "ignore_ports", kind: kindPort, bind: atList(func(c *Config) *[]uint16 { return &c.Feature.Network.Incoming.IgnorePorts }),
			Doc: "Local ports that stay local.",
		}),
		incoming(Field{
			Path: "ignore_localhost", kind: kindBool, Default: false, bind: at(func(c *Config) *bool { return &c.Feature.Network.Incoming.IgnoreLocalhost }),
			Doc: "Leave listeners on loopback addresses local.",
		}),
		incoming(Field{
			Path: "listen_ports", kind: kindPortPairs, check: checkPortPairs,
			bind: atList(func(c *Config) *[][2]uint16 { return &c.Feature.Network.Incoming.ListenPorts }),
			Doc:  "Pairs [requested, actual]: a port that the process asks for, and where it is opened on the laptop instead. The other port fields are about the requested one. Of ports that are not listed, one that is taken or not permitted here is opened on a free one.",
		}),
		incoming(Field{
			Path: "on_concurrent_steal", kind: kindText, Enum: []string{"abort", "override", "continue"}, Default: "abort",
			Env:  []string{"MIRRORD_OPERATOR_ON_CONCURRENT_STEAL"},
			bind: atText(func(c *Config) *ConcurrentSteal { return &c.Feature.Network.Incoming.OnConcurrentSteal }),
			Doc:  "What to do when another session steals the same port: abort ends the session, continue goes on and takes the port when it is free, override takes it at once. Without an operator it is continue.",
		}),
	}
	fields = append(fields, incoming(Field{
		Path: "probes", kind: kindText, Enum: []string{"target", "local"}, Default: string(ProbesToTarget),
		bind: atText(func(c *Config) *ProbesTo { return &c.Feature.Network.Incoming.Probes }),
		Doc:  "Who answers the kubelet's probes of a stolen port: the target, which is not restarted whatever the process does, or the process, which gets them as it gets other connections and requests. Not a field of the public mirrord.",
	}))
	for _, f := range httpFilterSchema() {
		f.Path = "http_filter." + f.Path
		fields = append(fields, incoming(f))
	}
	fields = append(fields, deliveryFields("tls_delivery", "", func(c *Config) *TLSDelivery { return &c.Feature.Network.Incoming.TLSDelivery })...)
	fields = append(fields, deliveryFields("https_delivery", "The old name: ", func(c *Config) *TLSDelivery { return &c.Feature.Network.Incoming.HTTPSDelivery })...)
	return append(fields, outgoingFields()...)
}

// deliveryFields are those of tls_delivery, under one of its names.
func deliveryFields(name, note string, at func(*Config) *TLSDelivery) []Field {
	fields := []Field{
		{
			Path: "protocol", kind: kindText, Enum: []string{"tls", "tcp"}, DefaultText: `"tls"`,
			bind: atText(func(c *Config) *DeliveryProtocol { return &at(c).Protocol }),
			Doc:  note + "how requests that were taken out of TLS are given to the process: in TLS again, or plain.",
		},
		{
			Path: "trust_roots", kind: kindTexts, check: checkNotEmpty, bind: atList(func(c *Config) *[]string { return &at(c).TrustRoots }),
			Doc: note + "PEM files, or folders of them, with certificates of which one must have signed the process's. Without them and server_cert, every certificate is taken.",
		},
		{
			Path: "server_name", kind: kindText, check: checkServerName, bind: atText(func(c *Config) *string { return &at(c).ServerName }),
			Doc: note + "the name to ask the process for. Without it, it is that of server_cert, or what the target's client asked for.",
		},
		{
			Path: "server_cert", kind: kindText, check: checkNotEmpty, bind: atText(func(c *Config) *string { return &at(c).ServerCert }),
			Doc: note + "a PEM file with the process's certificate. No other is taken. Not together with trust_roots.",
		},
		{
			Path: "client_cert", kind: kindText, check: checkNotEmpty, bind: atText(func(c *Config) *string { return &at(c).ClientCert }),
			Doc: note + "a PEM file with the certificate to show to the process, for one that asks its clients for one.",
		},
		{
			Path: "client_key", kind: kindText, check: checkNotEmpty, bind: atText(func(c *Config) *string { return &at(c).ClientKey }),
			Doc: note + "a PEM file with the key of client_cert.",
		},
	}
	for i := range fields {
		fields[i].Path = "feature.network.incoming." + name + "." + fields[i].Path
	}
	return fields
}

func outgoingFields() []Field {
	outgoing := func(c *Config) *Outgoing { return &c.Feature.Network.Outgoing }
	outgoingFilter := func(c *Config) **Filter { return &outgoing(c).Filter }
	dnsFilter := func(c *Config) **Filter { return &c.Feature.Network.DNS.Filter }
	local := func(f *Filter) *[]string { return &f.Local }
	remote := func(f *Filter) *[]string { return &f.Remote }
	return []Field{
		{
			Path: "feature.network.outgoing.tcp", kind: kindBool, Default: true, Env: []string{"MIRRORD_TCP_OUTGOING"}, Flag: "--no-outgoing, --no-tcp-outgoing",
			byProfile: true, bind: at(func(c *Config) *bool { return &outgoing(c).TCP }), Doc: "TCP connections of the process leave from the target.",
		},
		{
			Path: "feature.network.outgoing.udp", kind: kindBool, Default: true, Env: []string{"MIRRORD_UDP_OUTGOING"}, Flag: "--no-outgoing, --no-udp-outgoing",
			byProfile: true, bind: at(func(c *Config) *bool { return &outgoing(c).UDP }), Doc: "UDP datagrams of the process leave from the target.",
		},
		{
			Path: "feature.network.outgoing.ignore_localhost", kind: kindBool, Default: false,
			bind: at(func(c *Config) *bool { return &outgoing(c).IgnoreLocalhost }), Doc: "Connections to loopback addresses stay on the laptop.",
		},
		{
			Path: "feature.network.outgoing.filter.local", kind: kindTexts, check: checkOutgoingFilter,
			byProfile: true, bind: atFilter(outgoingFilter, local),
			Doc: "What matches stays on the laptop, the rest leaves from the target. Entries are [PROTOCOL://][HOST|IP|[IPV6]|CIDR][:PORT]; a host can start with *. for all names below.",
		},
		{
			Path: "feature.network.outgoing.filter.remote", kind: kindTexts, check: checkOutgoingFilter,
			byProfile: true, bind: atFilter(outgoingFilter, remote), Doc: "What matches leaves from the target, the rest stays on the laptop.",
		},
		{
			Path: "feature.network.outgoing.unix_streams", kind: kindTexts, Env: []string{"MIRRORD_OUTGOING_REMOTE_UNIX_STREAMS"}, check: checkPattern,
			byProfile: true,
			bind:      atList(func(c *Config) *[]string { return &outgoing(c).UnixStreams }), Doc: "Patterns of Unix sockets, by absolute path or abstract name, that are connected in the target; of those that it does not have, this machine's.",
		},
		{
			Path: "feature.network.dns.enabled", kind: kindBool, Default: true, Env: []string{"MIRRORD_REMOTE_DNS"}, Flag: "--no-remote-dns",
			byProfile: true, bind: at(func(c *Config) *bool { return &c.Feature.Network.DNS.Enabled }), Doc: "Names are resolved as in the target.",
		},
		{
			Path: "feature.network.dns.filter.local", kind: kindTexts, check: checkDNSFilter,
			byProfile: true, bind: atFilter(dnsFilter, local), Doc: "What matches is resolved on the laptop, the rest in the target. Entries are as for outgoing, without a protocol.",
		},
		{
			Path: "feature.network.dns.filter.remote", kind: kindTexts, check: checkDNSFilter,
			byProfile: true, bind: atFilter(dnsFilter, remote), Doc: "What matches is resolved in the target, the rest on the laptop.",
		},
		{
			Path: "feature.network.ipv6", kind: kindBool, Default: true, Env: []string{"MIRRORD_ENABLE_IPV6"},
			bind: at(func(c *Config) *bool { return &c.Feature.Network.IPv6 }), Doc: "IPv6; without it, IPv6 addresses that would go to the target are unreachable.",
		},
	}
}
