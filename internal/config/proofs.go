package config

// limitsPage is where users read what this version does instead of what a field says.
const limitsPage = "limits.md"

// proofs says for each field of the target and of features, or for all below a path, what shows
// its effect: the name of an end-to-end test (test/e2e), or a section of docs/limits.md that
// says what happens instead.
func proofs() map[string]string {
	const (
		incoming = "feature.network.incoming."
		filter   = httpFilterPath + "."
		outgoing = "feature.network.outgoing."
		dns      = "feature.network.dns."
		env      = "feature.env."
		fs       = "feature.fs."

		limitsTargets  = limitsPage + "#targets"
		limitsIncoming = limitsPage + "#incoming-traffic"
		limitsFiles    = limitsPage + "#files"
		limitsProgram  = limitsPage + "#your-program"
	)
	return map[string]string{
		"target.path":      "TestTargets",
		"target.namespace": "TestTargets",

		incoming + "mode":                "TestConflicts",
		incoming + "port_mapping":        "TestTwoSessionsStealOnePort",
		incoming + "ports":               "TestIncomingPorts",
		incoming + "ignore_ports":        "TestIncomingPorts",
		incoming + "ignore_localhost":    "TestIncomingPorts",
		incoming + "on_concurrent_steal": "TestHTTPFilterOperator",
		incoming + "probes":              "TestStealLeavesProbes",

		filter + "header_filter":    "TestHTTPFilter",
		filter + "path_filter":      "TestHTTPFilter",
		filter + "method_filter":    "TestHTTPFilter",
		filter + "body_filter":      "TestHTTPFilter",
		filter + "header_filter_jq": "TestHTTPFilter",
		filter + "all_of":           "TestHTTPFilter",
		filter + "any_of":           "TestHTTPFilter",
		filter + "ports":            "TestHTTPFilterPorts",

		outgoing + "tcp":              "TestOutgoing",
		outgoing + "udp":              "TestOutgoing",
		outgoing + "ignore_localhost": "TestOutgoingSettings",
		outgoing + "filter.local":     "TestFilters",
		outgoing + "filter.remote":    "TestFilters",
		outgoing + "unix_streams":     "TestUnixSockets",

		dns + "enabled":        "TestFilters",
		dns + "filter.local":   "TestFilters",
		dns + "filter.remote":  "TestFilters",
		"feature.network.ipv6": "TestOutgoingSettings",

		env + "include":           "TestEnvironment",
		env + "exclude":           "TestEnvironment",
		env + "override":          "TestEnvironment",
		env + "unset":             "TestEnvironment",
		env + "env_file":          "TestEnvironment",
		env + "mapping":           "TestEnvironment",
		env + "load_from_process": limitsProgram,

		fs + "mode":                 "TestFiles",
		fs + "read_write":           "TestFiles",
		fs + "read_only":            "TestFiles",
		fs + "local":                "TestFiles",
		fs + "not_found":            "TestFiles",
		fs + "mapping":              "TestFiles",
		fs + "readonly_file_buffer": limitsFiles,

		"feature.hostname": "TestHostname",

		"feature.copy_target":      limitsTargets,
		"feature.split_queues":     limitsTargets,
		"feature.db_branches":      limitsTargets,
		"feature.preview":          limitsTargets,
		"feature.magic.aws":        "TestEnvironment",
		"feature.magic.auto_mount": limitsFiles,
		"feature.magic.turbo":      limitsProgram,

		incoming + "listen_ports":   "TestListeners",
		incoming + "tls_delivery":   "TestTLSSteal",
		incoming + "https_delivery": limitsIncoming,
	}
}

// proofOf finds the proof of a field.
func proofOf(path string, proofs map[string]string) string {
	for ; path != ""; path, _ = splitPath(path) {
		if proof, ok := proofs[path]; ok {
			return proof
		}
	}
	return ""
}
