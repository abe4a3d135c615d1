package config

// maxSeconds keeps times in seconds far from overflow.
const maxSeconds = 1 << 31

func rootFields() []Field {
	return []Field{
		{
			Path: "profile", kind: kindText, Flag: "--profile", bind: atText(func(c *Config) *string { return &c.Profile }), check: checkNotEmpty,
			Doc: "The profile to apply: NAME for a MirrordClusterProfile, NAMESPACE/NAME for a MirrordProfile. What it sets wins over the file, the environment and flags.",
		},
		{
			Path: "target.path", kind: kindTarget, Env: []string{"MIRRORD_IMPERSONATED_TARGET"}, Flag: "-t, --target",
			bind: at(func(c *Config) *TargetPath { return &c.Target.Path }), DefaultText: `"targetless"`,
			Doc: `The workload: KIND/NAME[/container/CONTAINER] with pod, deployment (deploy), statefulset, daemonset, replicaset, job, cronjob or service; label/KEY=VALUE[,KEY=VALUE]; or "targetless". As an object: {"deployment": NAME, "container": CONTAINER}.`,
		},
		{
			Path: "target.namespace", kind: kindText, Env: []string{"MIRRORD_TARGET_NAMESPACE"}, Flag: "-n, --target-namespace",
			bind: atText(func(c *Config) *string { return &c.Target.Namespace }), DefaultText: "of the kube context", check: checkNamespaceName,
			Doc: "The target's namespace. A namespaced profile sets it when nobody else did.",
		},
		{
			Path: "kubeconfig", kind: kindText, Env: []string{"MIRRORD_KUBECONFIG"}, Flag: "--kubeconfig", bind: atText(func(c *Config) *string { return &c.Kubeconfig }),
			DefaultText: "`$KUBECONFIG`, `~/.kube/config`, or in-cluster", Doc: "The kubeconfig file.",
		},
		{
			Path: "kube_context", kind: kindText, Env: []string{"MIRRORD_KUBE_CONTEXT"}, Flag: "--context",
			bind: atText(func(c *Config) *string { return &c.KubeContext }), DefaultText: "the current one", Doc: "The context of the kubeconfig.",
		},
		{
			Path: "accept_invalid_certificates", kind: kindBool, Env: []string{"MIRRORD_ACCEPT_INVALID_CERTIFICATES"}, Flag: "-c, --accept-invalid-certificates",
			bind: atOptional(func(c *Config) **bool { return &c.AcceptInvalidCertificates }), DefaultText: "of the kubeconfig",
			Doc: "Do not verify the certificate of the API server.",
		},
		{
			Path: "key", kind: kindText, Env: []string{"MIRRORD_KEY"}, Flag: "-k, --key", bind: atText(func(c *Config) *string { return &c.Key }),
			DefaultText: "five random hexadecimal digits", Doc: "The session's key, which templates have as {{ key }}.",
		},
		{
			Path: "operator", kind: kindBool, Env: []string{"MIRRORD_OPERATOR_ENABLE"}, bind: atOptional(func(c *Config) **bool { return &c.Operator }),
			DefaultText: "an operator that is there is used",
			Doc:         "true must use the operator, false never does. Unset, one that is installed is used, also when it refuses the session.",
		},
		{
			Path: "multi_cluster", kind: kindBool, Env: []string{"MIRRORD_MULTI_CLUSTER"}, Status: Refused,
			Note: "a session is with one cluster, and others would keep their traffic", Doc: "Sessions across several clusters; false forces one.",
		},
		{
			Path: "skip_processes", kind: kindTexts, Env: []string{"MIRRORD_SKIP_PROCESSES"}, Flag: "--skip-processes",
			bind: atList(func(c *Config) *[]string { return &c.SkipProcesses }),
			Doc:  "Names of programs that run outside of the session: their connections, listeners, lookups and files are the laptop's. What they start is inside, unless it is named too.",
		},
		{
			Path: "skip_extra_build_tools", kind: kindTexts, Env: []string{"MIRRORD_SKIP_EXTRA_BUILD_TOOLS"},
			bind: atList(func(c *Config) *[]string { return &c.SkipExtraBuildTools }),
			Doc:  "More build tools that run outside of the session, with skip_build_tools.",
		},
		{
			Path: "skip_build_tools", kind: kindBool, Default: true, Env: []string{"MIRRORD_SKIP_BUILD_TOOLS"},
			bind: at(func(c *Config) *bool { return &c.SkipBuildTools }),
			Doc:  "Run compilers, linkers, git, go, cargo, dlv, air and the like outside of the session; the programs that they start are inside.",
		},
		{
			Path: "use_proxy", kind: kindBool, Default: true, Env: []string{"MIRRORD_PROXY"}, Status: Refused, harmless: isTrue,
			Note: "requests to the API server would go through the proxy; unset HTTPS_PROXY instead", Doc: "Use the proxy of HTTP_PROXY and HTTPS_PROXY.",
		},
		{
			Path: "api", kind: kindBool, Default: true, Env: []string{"MIRRORD_API"}, Status: Ignored, harmless: isFalse,
			Note: "there is no local API about the session", Doc: "A local socket that tells about the session.",
		},
		{
			Path: "telemetry", kind: kindBool, Default: true, Env: []string{"MIRRORD_TELEMETRY"}, Flag: "--no-telemetry", Status: Inert,
			Note: "this program sends no telemetry", Doc: "Send telemetry.",
		},
		{Path: "traceparent", kind: kindText, Env: []string{"TRACEPARENT"}, Status: Inert, Note: "of use with an operator only", Doc: "The W3C trace context of the session."},
		{Path: "baggage", kind: kindText, Env: []string{"BAGGAGE"}, Status: Inert, Note: "of use with an operator only", Doc: "The W3C baggage of the session."},
		{Path: "sip_binaries", kind: kindTexts, Status: Inert, Note: "no binary is patched", Doc: "Binaries to patch on macOS."},
		{Path: "skip_sip", kind: kindTexts, Env: []string{"MIRRORD_SKIP_SIP"}, Default: []string{"git"}, Status: Inert, Note: "no binary is patched", Doc: "Binaries not to patch on macOS."},
		{Path: "startup_retry.min_ms", kind: kindUint, max: 1 << 32, Default: uint64(500), Status: Ignored, Note: "requests are repeated at fixed times", Doc: "The shortest wait before a request to the cluster is repeated, in milliseconds."},
		{Path: "startup_retry.max_ms", kind: kindUint, max: 1 << 32, Default: uint64(5000), Status: Ignored, Note: "requests are repeated at fixed times", Doc: "The longest wait, in milliseconds."},
		{Path: "startup_retry.max_retries", kind: kindUint, max: 1 << 32, Default: uint64(2), Status: Ignored, Note: "requests are repeated a fixed number of times", Doc: "How often a request is repeated."},
	}
}

func isTrue(v any) bool  { return v == true }
func isFalse(v any) bool { return v == false }
