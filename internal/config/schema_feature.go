package config

import "slices"

func featureFields() []Field {
	env := func(c *Config) *Env { return &c.Feature.Env }
	return []Field{
		{
			Path: "feature.env.include", kind: kindTexts, Env: []string{"MIRRORD_OVERRIDE_ENV_VARS_INCLUDE"}, Flag: "-x, --override-env-vars-include",
			bind: atList(func(c *Config) *[]string { return &env(c).Include }), Doc: "The only variables that are taken from the target; * and ? are wildcards, and one string may hold several with ; between.",
		},
		{
			Path: "feature.env.exclude", kind: kindTexts, Env: []string{"MIRRORD_OVERRIDE_ENV_VARS_EXCLUDE"}, Flag: "-s, --override-env-vars-exclude",
			bind: atList(func(c *Config) *[]string { return &env(c).Exclude }), Doc: "Variables that are not taken from the target. Not together with include.",
		},
		{
			Path: "feature.env.override", kind: kindTextMap, bind: atMap(func(c *Config) *map[string]string { return &env(c).Override }), check: checkVariableNames,
			Doc: "Variables with values that win over the target's and over env_file.",
		},
		{Path: "feature.env.unset", kind: kindTexts, bind: atList(func(c *Config) *[]string { return &env(c).Unset }), Doc: "Variables that the process does not get, in any case of letters."},
		{
			Path: "feature.env.env_file", kind: kindText, Env: []string{"MIRRORD_OVERRIDE_ENV_VARS_FILE"}, Flag: "--env-file",
			bind: atText(func(c *Config) *string { return &env(c).EnvFile }), Doc: "A file of NAME=value lines that win over the target's.",
		},
		{
			Path: "feature.env.mapping", kind: kindTextMap, bind: atMap(func(c *Config) *map[string]string { return &env(c).Mapping }), check: checkPatternKeys,
			Doc: "Patterns of names, and the values that matching variables get.",
		},
		{
			Path: "feature.env.load_from_process", kind: kindBool, Default: false, Env: []string{"MIRRORD_ENV_LOAD_FROM_PROCESS"}, Status: Inert,
			Note: "the environment is always complete before the process starts, of whatever size", Doc: "Fetch the environment after the process has started, instead of before.",
		},
		{
			Path: "feature.fs.mode", kind: kindText, Enum: []string{"read", "write", "local", "localwithoverrides"}, Default: string(FSRead),
			Env: []string{"MIRRORD_FILE_MODE", "MIRRORD_FILE_OPS", "MIRRORD_FILE_RO_OPS"}, Flag: "--fs-mode", parse: parseFSMode,
			bind: atText(func(c *Config) *FSMode { return &c.Feature.FS.Mode }),
			Doc:  "Where files are: read takes them from the target and writes on the laptop, write does both in the target, local leaves all on the laptop, localwithoverrides all but what the lists name. The lists, and what a program brings along, come first.",
		},
		{
			Path: "feature.fs.read_write", kind: kindTexts, Env: []string{"MIRRORD_FILE_READ_WRITE_PATTERN"}, check: checkPattern,
			bind: atList(func(c *Config) *[]string { return &c.Feature.FS.ReadWrite }), Doc: "Patterns of files that are read and written in the target.",
		},
		{
			Path: "feature.fs.read_only", kind: kindTexts, Env: []string{"MIRRORD_FILE_READ_ONLY_PATTERN"}, check: checkPattern,
			bind: atList(func(c *Config) *[]string { return &c.Feature.FS.ReadOnly }), Doc: "Patterns of files that are read in the target.",
		},
		{
			Path: "feature.fs.local", kind: kindTexts, Env: []string{"MIRRORD_FILE_LOCAL_PATTERN"}, check: checkPattern,
			bind: atList(func(c *Config) *[]string { return &c.Feature.FS.Local }), Doc: "Patterns of files that stay local.",
		},
		{
			Path: "feature.fs.not_found", kind: kindTexts, check: checkPattern,
			bind: atList(func(c *Config) *[]string { return &c.Feature.FS.NotFound }), Doc: "Patterns of files that are not there.",
		},
		{
			Path: "feature.fs.mapping", kind: kindTextMap, check: checkPatternKeys,
			bind: atMap(func(c *Config) *map[string]string { return &c.Feature.FS.Mapping }),
			Doc:  "Patterns of paths, and what they are replaced with, before the lists are looked at; $1 is what the first group matched.",
		},
		{
			Path: "feature.fs.readonly_file_buffer", kind: kindUint, max: 1 << 62, Default: uint64(128000), check: checkFileBuffer, Status: Inert, Note: "files are read ahead as the kernel asks for them",
			Doc: "The buffer for files that are read in the target, in bytes.",
		},
		{
			Path: "feature.hostname", kind: kindBool, Default: true, bind: at(func(c *Config) *bool { return &c.Feature.Hostname }),
			Doc: "The process sees the target's host name. A session without a target leaves the laptop's.",
		},
		{
			Path: "feature.copy_target.enabled", kind: kindBool, Default: false, Status: Refused, Note: "the session would be with the target itself instead of a copy",
			Doc: "Make a copy of the target, and attach to it.",
		},
		{Path: "feature.copy_target.scale_down", kind: kindBool, Default: false, Status: Inert, Note: "there is no copy", Doc: "Scale the target down while the copy is there."},
		{Path: "feature.copy_target.exclude_containers", kind: kindTexts, Status: Inert, Note: "there is no copy", Doc: "Containers that the copy does not have."},
		{Path: "feature.copy_target.exclude_init_containers", kind: kindTexts, Status: Inert, Note: "there is no copy", Doc: "Init containers that the copy does not have."},
		{
			Path: "feature.magic.aws", kind: kindBool, Default: true, bind: at(func(c *Config) *bool { return &c.Feature.Magic.AWS }),
			Doc: "Hide the laptop's AWS identity, so that the target's is found: its variables (AWS_PROFILE, keys, role), and the files of ~/.aws by AWS_CONFIG_FILE and AWS_SHARED_CREDENTIALS_FILE. A session without a target hides nothing.",
		},
		{Path: "feature.magic.auto_mount", kind: kindBool, Default: true, Status: Ignored, harmless: isFalse, Note: "volumes are read in the target as other files are, by feature.fs", Doc: "Read the target's volumes in the target."},
		{Path: "feature.magic.turbo", kind: kindBool, Default: true, Status: Inert, Note: "loopback needs no help", Doc: "Keep loopback connections of Next.js local."},
		{Path: "feature.split_queues", kind: kindAny, Status: Refused, Note: "messages would not be split", Doc: "Split message queues between the target and the session."},
		{Path: "feature.db_branches", kind: kindAny, Status: Refused, Note: "the process would use the target's own databases", Doc: "Branches of databases for the session."},
		{Path: "feature.preview", kind: kindAny, Status: Refused, Note: "there are no preview environments", Doc: "A preview environment."},
	}
}

// isEmpty is true for values that ask for nothing.
func isEmpty(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case bool:
		return !v
	case string:
		return v == ""
	case []string:
		return len(v) == 0
	case []uint16:
		return len(v) == 0
	case [][2]uint16:
		return len(v) == 0
	case map[string]string:
		return len(v) == 0
	case []any:
		return !slices.ContainsFunc(v, func(item any) bool { return !isEmpty(item) })
	case map[string]any:
		return len(v) == 0
	}
	return false
}
