package config

// agentRepository is where the agent's image is found when nobody says otherwise; its tag is
// the version of the program.
const agentRepository = "ghcr.io/mirrord-go/mirrord-agent"

func agentFields() []Field {
	agent := func(c *Config) *Agent { return &c.Agent }
	fields := []Field{
		{
			Path: "image", kind: kindText, Env: []string{"MIRRORD_AGENT_IMAGE"}, Flag: "-i, --agent-image", bind: atText(func(c *Config) *string { return &agent(c).Image }),
			DefaultText: "`" + agentRepository + ":VERSION`", Doc: "The agent's image, or an object with registry and tag. MIRRORD_AGENT_IMAGE_REGISTRY and MIRRORD_AGENT_IMAGE_TAG fill in what the file leaves open.",
		},
		{
			Path: "image_pull_policy", kind: kindText, Enum: []string{"IfNotPresent", "Always", "Never"}, Default: "IfNotPresent", Env: []string{"MIRRORD_AGENT_IMAGE_PULL_POLICY"},
			bind: atText(func(c *Config) *string { return &agent(c).ImagePullPolicy }), Doc: "When the image is pulled.",
		},
		{Path: "image_pull_secrets", kind: kindSecrets, bind: atList(func(c *Config) *[]string { return &agent(c).ImagePullSecrets }), Doc: "Secrets for pulling the image."},
		{
			Path: "namespace", kind: kindText, Env: []string{"MIRRORD_AGENT_NAMESPACE"}, Flag: "-a, --agent-namespace", DefaultText: "the target's", check: checkNamespaceName,
			bind: atText(func(c *Config) *string { return &agent(c).Namespace }), Doc: "The namespace of the agent's pod.",
		},
		{
			Path: "ephemeral", kind: kindBool, Default: false, Env: []string{"MIRRORD_EPHEMERAL_CONTAINER"}, Flag: "-e, --ephemeral-container",
			bind: at(func(c *Config) *bool { return &agent(c).Ephemeral }), Doc: "Run the agent as an ephemeral container of the target's pod.",
		},
		{
			Path: "log_level", kind: kindText, Default: "info", Env: []string{"MIRRORD_AGENT_RUST_LOG"}, Flag: "-l, --agent-log-level", check: checkLogLevel,
			bind: atText(func(c *Config) *string { return &agent(c).LogLevel }), Doc: "trace, debug, info, warn, error or off. Of levels for single modules, the most detailed is taken.",
		},
		{
			Path: "ttl", kind: kindUint, max: 65535, Default: uint64(1), Env: []string{"MIRRORD_AGENT_TTL"}, Flag: "--agent-ttl",
			bind: atUint(func(c *Config) *uint16 { return &agent(c).TTL }), Doc: "How long a finished agent stays, in seconds.",
		},
		{
			Path: "communication_timeout", kind: kindUint, max: 65535, Default: uint64(300), Env: []string{"MIRRORD_AGENT_COMMUNICATION_TIMEOUT"}, check: checkNotZero,
			bind: atUint(func(c *Config) *uint16 { return &agent(c).CommunicationTimeout }), Doc: "How long an agent waits for its client, and a session for a connection that broke, in seconds.",
		},
		{
			Path: "startup_timeout", kind: kindUint, max: maxSeconds, Default: uint64(60), Env: []string{"MIRRORD_AGENT_STARTUP_TIMEOUT"}, Flag: "--agent-startup-timeout", check: checkNotZero,
			bind: atUint(func(c *Config) *uint64 { return &agent(c).StartupTimeout }), Doc: "How long the client waits for an agent, in seconds.",
		},
		{
			Path: "flush_connections", kind: kindBool, Default: true, Env: []string{"MIRRORD_AGENT_STEALER_FLUSH_CONNECTIONS"},
			bind: at(func(c *Config) *bool { return &agent(c).FlushConnections }), Doc: "End connections that are open when a port is taken, so that their clients come back to the session.",
		},
		{Path: "privileged", kind: kindBool, Default: false, bind: at(func(c *Config) *bool { return &agent(c).Privileged }), Doc: "Run the agent's container privileged."},
		{
			Path: "disabled_capabilities", kind: kindTexts, Env: []string{"MIRRORD_AGENT_DISABLED_CAPABILITIES"}, check: checkCapabilities,
			bind: atList(func(c *Config) *[]string { return &agent(c).DisabledCapabilities }), Doc: "Linux capabilities that the agent is not given, such as NET_ADMIN.",
		},
		{Path: "labels", kind: kindTextMap, bind: atMap(func(c *Config) *map[string]string { return &agent(c).Labels }), Doc: "Labels of the agent's pod."},
		{Path: "annotations", kind: kindTextMap, bind: atMap(func(c *Config) *map[string]string { return &agent(c).Annotations }), Doc: "Annotations of the agent's pod."},
		{Path: "node_selector", kind: kindTextMap, bind: atMap(func(c *Config) *map[string]string { return &agent(c).NodeSelector }), Doc: "Labels of the node of a targetless agent."},
		{Path: "service_account", kind: kindText, bind: atText(func(c *Config) *string { return &agent(c).ServiceAccount }), Doc: "The service account of the agent's pod."},
		{Path: "priority_class", kind: kindText, bind: atText(func(c *Config) *string { return &agent(c).PriorityClass }), Doc: "The priority class of the agent's pod."},
		{Path: "tolerations", kind: kindObjects, DefaultText: "all taints", bind: atList(func(c *Config) *[]map[string]any { return &agent(c).Tolerations }), Doc: "Tolerations of the agent's pod, as in a pod's spec."},
		{Path: "resources", kind: kindObject, bind: atMap(func(c *Config) *map[string]any { return &agent(c).Resources }), DefaultText: "small requests, see the agent's pod", Doc: "Resources of the agent's container, as in a pod's spec."},
		{Path: "json_log", kind: kindBool, Default: false, Env: []string{"MIRRORD_AGENT_JSON_LOG"}, Status: Inert, Note: "the agent always writes JSON", Doc: "The agent writes its log as JSON."},
		{Path: "check_out_of_pods", kind: kindBool, Default: true, Status: Inert, Note: "the scheduler checks", Doc: "Check that the node has room for the agent."},
		{Path: "external_ip_fix", kind: kindBool, Default: true, Status: Inert, Note: "connections that go on to the target are not redirected", Doc: "A fix for connections that go on to the target."},
		{Path: "nftables", kind: kindBool, Env: []string{"MIRRORD_AGENT_NFTABLES"}, Status: Inert, Note: "the agent finds out what the node has", Doc: "Which firewall the agent uses."},
		{Path: "dns.timeout", kind: kindUint, max: maxSeconds, Env: []string{"MIRRORD_AGENT_DNS_TIMEOUT"}, Status: Ignored, Note: "the target's resolv.conf decides", Doc: "Seconds until a name server is asked again."},
		{Path: "dns.attempts", kind: kindUint, max: maxSeconds, Env: []string{"MIRRORD_AGENT_DNS_ATTEMPTS"}, Status: Ignored, Note: "the target's resolv.conf decides", Doc: "How often a name server is asked."},
		{Path: "metrics", kind: kindText, Env: []string{"MIRRORD_AGENT_METRICS"}, Status: Ignored, Note: "the agent has no metrics", Doc: "Where the agent serves metrics."},
		{Path: "exclude_from_mesh", kind: kindBool, Default: false, Status: Ignored, Note: "the agent's port is not excluded from a service mesh", Doc: "Keep the port of an ephemeral agent out of the service mesh."},
		{Path: "disable_mesh_sidecar_injection", kind: kindBool, Default: true, Status: Ignored, harmless: isTrue, Note: "the agent's pod never gets a sidecar", Doc: "Keep service meshes from adding a sidecar to the agent."},
		{Path: "inject_headers", kind: kindBool, Default: false, bind: at(func(c *Config) *bool { return &agent(c).InjectHeaders }), Doc: "Mark HTTP responses on ports with a filter with a Mirrord-Agent header: forwarded-to-client for those of the process, passed-through for those of the target."},
		{Path: "override_cache_control", kind: kindBool, Default: true, Status: Inert, Note: "responses are not stored by anything here", Doc: "Change the Cache-Control header of responses."},
		{
			Path: "max_body_buffer_size", kind: kindUint, max: 1 << 32, Default: uint64(65535), check: checkAtMost(maxBodyBuffer, "bytes"),
			bind: atUint(func(c *Config) *uint64 { return &agent(c).MaxBodyBufferSize }), Doc: "The largest body that a filter looks at, in bytes; a larger one does not match.",
		},
		{
			Path: "max_body_buffer_timeout", kind: kindUint, max: 1 << 32, Default: uint64(1000), check: checkAtMost(maxFilterWait, "milliseconds"),
			bind: atUint(func(c *Config) *uint64 { return &agent(c).MaxBodyBufferTimeout }), Doc: "How long a filter waits for a body, in milliseconds; a slower one does not match.",
		},
		{
			Path: "http_detection_timeout", kind: kindUint, max: maxSeconds, Default: uint64(2), check: checkAtMost(maxFilterWait/1000, "seconds"),
			bind: atUint(func(c *Config) *uint64 { return &agent(c).HTTPDetectionTimeout }), Doc: "How long a connection to a port with a filter may be silent, in seconds, before it counts as one that is not HTTP.",
		},
		{
			Path: "jaq_time_limit", kind: kindUint, max: 1 << 32, Default: uint64(50), check: checkAtMost(maxJQTime, "milliseconds"),
			bind: atUint(func(c *Config) *uint64 { return &agent(c).JQTimeLimit }), Doc: "How long a jq program of a filter may run for a request, in milliseconds; a slower one does not match.",
		},
		{Path: "security_context.app_armor_profile", kind: kindAny, Status: Ignored, Note: "the agent's container has the cluster's default", Doc: "The AppArmor profile of the agent's container."},
		{Path: "security_context.seccomp_profile", kind: kindAny, Status: Ignored, Note: "the agent's container has the cluster's default", Doc: "The seccomp profile of the agent's container."},
		{Path: "clean_iptables_on_start", kind: kindBool, Status: Inert, Note: "the agent leaves no rules behind", Doc: "Remove rules of an agent that died."},
	}
	for i := range fields {
		fields[i].Path = "agent." + fields[i].Path
	}
	return fields
}

// otherFields belong to parts that this program does not have.
func otherFields() []Field {
	var fields []Field
	add := func(section, note string, part ...Field) {
		for _, f := range part {
			f.Path = section + "." + f.Path
			f.Status, f.Note = Ignored, note
			fields = append(fields, f)
		}
	}
	proxy := []Field{
		{Path: "start_idle_timeout", kind: kindUint, max: maxSeconds, Default: uint64(60), Doc: "How long the proxy waits for its first connection, in seconds."},
		{Path: "idle_timeout", kind: kindUint, max: maxSeconds, Default: uint64(5), Doc: "How long it waits without connections, in seconds."},
		{Path: "log_level", kind: kindText, Default: "mirrord=info,warn", Doc: "What it logs."},
		{Path: "log_destination", kind: kindText, Doc: "Where it logs to."},
		{Path: "json_log", kind: kindBool, Default: true, Doc: "It logs as JSON."},
	}
	add("internal_proxy", "there is no internal proxy, the command itself is one", proxy...)
	add("internal_proxy", "there is no internal proxy, the command itself is one",
		Field{Path: "socket_timeout", kind: kindUint, max: 1 << 62, Doc: "How long it waits on a socket, in seconds."},
		Field{Path: "ping_interval", kind: kindUint, max: maxSeconds, Default: uint64(30), Doc: "How often it asks the agent whether it is there, in seconds."},
		Field{Path: "process_logging_interval", kind: kindUint, max: maxSeconds, Doc: "How often it logs the processes of the session, in seconds."})
	const noContainers = "containers cannot be run in a session yet"
	add("external_proxy", noContainers, proxy...)
	add("external_proxy", noContainers,
		Field{Path: "tls_enable", kind: kindBool, Default: true, Doc: "TLS between the proxies."},
		Field{Path: "host_ip", kind: kindText, Doc: "The address of the proxy for the container."})
	add("container", noContainers,
		Field{Path: "cli_image", kind: kindText, Doc: "The image of the sidecar."},
		Field{Path: "cli_extra_args", kind: kindTexts, Doc: "Arguments for the sidecar."},
		Field{Path: "cli_prevent_cleanup", kind: kindBool, Default: false, Doc: "Leave the sidecar."},
		Field{Path: "cli_image_lib_path", kind: kindText, Doc: "A path in the image of the sidecar."},
		Field{Path: "cli_tls_path", kind: kindText, Doc: "A path in the image of the sidecar."},
		Field{Path: "override_host_ip", kind: kindText, Doc: "The address of the laptop for containers."},
		Field{Path: "host_gateway_detection", kind: kindBool, Default: true, Doc: "Find that address."},
		Field{Path: "platform", kind: kindText, Doc: "The platform of the sidecar."})
	add("ci", "there is no command for it", Field{Path: "output_dir", kind: kindText, Doc: "Where the command for CI writes to."})
	for _, name := range []string{
		"applev", "browser_extension_config", "disable_reuseaddr", "dlopen_cgo", "enable_exec_hooks_linux", "go_asmcgocall", "guard_std_fds",
		"hide_ipv6_interfaces", "idle_local_http_connection_timeout", "ignore_system_proxy_config", "latency", "non_blocking_tcp_connect",
		"sip_log_destination", "sip_utils", "tcp_ping4_mock", "trust_any_certificate", "use_dev_null",
	} {
		add("experimental", "this version has no experiments", Field{Path: name, kind: kindAny, Doc: "An experiment of mirrord."})
	}
	return fields
}
