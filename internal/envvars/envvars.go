// Package envvars computes the environment of the local process: the laptop's own, over it
// what the target's process has and feature.env lets through, over it the user's file, over
// it the user's overrides.
//
// It is pure. Values are secrets of the target: they appear in no error and no log.
package envvars

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/pattern"
)

// Rules are a compiled feature.env.
type Rules struct {
	remote   bool
	include  []string
	exclude  []string
	file     map[string]string
	override map[string]string
	mapping  []mapping
	unset    map[string]bool // upper case
	hideAWS  bool
}

type mapping struct {
	name  *pattern.Pattern
	value string
}

// Compile checks the configuration. File are the variables of its env_file, see [Parse];
// nil without one. An error names the setting and never shows a value.
func Compile(c config.Env, file map[string]string) (*Rules, error) {
	r := &Rules{
		remote:   c.Enabled,
		include:  split(c.Include),
		exclude:  split(c.Exclude),
		file:     file,
		override: c.Override,
		unset:    make(map[string]bool, len(c.Unset)),
	}
	if len(r.include) > 0 && len(r.exclude) > 0 {
		return nil, fmt.Errorf("feature.env has both include and exclude: keep one of them")
	}
	for _, n := range split(c.Unset) {
		r.unset[strings.ToUpper(n)] = true
	}
	for n := range c.Override {
		if n == "" || strings.ContainsAny(n, "=\x00") {
			return nil, fmt.Errorf("feature.env.override: %q cannot be the name of a variable", n)
		}
	}
	// In the order of the patterns, since a JSON object has none: which of two patterns
	// wins must not change from run to run.
	for _, text := range slices.Sorted(maps.Keys(c.Mapping)) {
		p, err := pattern.Compile(text)
		if err != nil {
			return nil, fmt.Errorf("feature.env.mapping: %w", err)
		}
		r.mapping = append(r.mapping, mapping{name: p, value: c.Mapping[text]})
	}
	return r, nil
}

// HideAWS makes [Rules.Apply] leave out what names the laptop's user to AWS, so that the process
// finds the target's identity: the laptop's variables, and the files of ~/.aws, unless
// the target, the file or override name others.
func (r *Rules) HideAWS() { r.hideAWS = true }

// awsIdentity are variables that choose who one is to AWS, and awsFiles those that name the files
// with it (AWS SDKs and Tools Reference Guide, environment variables).
var (
	awsIdentity = []string{
		"AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN",
		"AWS_ROLE_ARN", "AWS_ROLE_SESSION_NAME", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CREDENTIAL_EXPIRATION",
	}
	awsFiles = []string{"AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"}
)

// NeedsTarget says whether the target's environment has any influence: without it, nobody
// has to ask for it.
func (r *Rules) NeedsTarget() bool { return r.remote }

// Apply returns the environment of the local process, sorted by name. Local and target are
// NAME=value pairs; later pairs win. Pairs without a name are dropped.
//
// The order is that of mirrord: local, target, env_file, override; then mapping replaces
// values of what did not come from the laptop alone; then unset removes from everything.
func (r *Rules) Apply(local, target []string) []string {
	given := make(map[string]string)
	if r.remote {
		for _, kv := range target {
			if n, v, ok := cut(kv); ok && r.takes(n) {
				given[n] = v
			}
		}
	}
	maps.Copy(given, r.file)
	maps.Copy(given, r.override)
	for n := range given {
		for _, m := range r.mapping {
			// A pattern that takes too long does not match.
			if ok, err := m.name.Match(n); ok && err == nil {
				given[n] = m.value
				break
			}
		}
	}
	env := make(map[string]string, len(local)+len(given))
	for _, kv := range local {
		if n, v, ok := cut(kv); ok && !(r.hideAWS && slices.Contains(awsIdentity, n)) {
			env[n] = v
		}
	}
	if r.hideAWS && given["AWS_PROFILE"] == "" {
		// A profile that was given on purpose is in these files.
		for _, n := range awsFiles {
			env[n] = os.DevNull
		}
	}
	maps.Copy(env, given)
	out := make([]string, 0, len(env))
	for n, v := range env {
		if !r.unset[strings.ToUpper(n)] {
			out = append(out, n+"="+v)
		}
	}
	slices.Sort(out)
	return out
}

// takes decides about one of the target's variables.
func (r *Rules) takes(name string) bool {
	if slices.ContainsFunc(r.exclude, func(p string) bool { return match(p, name) }) {
		return false
	}
	if named(r.include, name) {
		return true
	}
	if localOnly(name) {
		return false
	}
	return len(r.include) == 0 || slices.ContainsFunc(r.include, func(p string) bool { return match(p, name) })
}

// named says whether a pattern that says something about the name lets it in: "*" alone
// asks for everything that makes sense, and not for the target's PATH.
func named(include []string, name string) bool {
	return slices.ContainsFunc(include, func(p string) bool {
		return strings.Trim(p, "*") != "" && match(p, name)
	})
}

// localOnly says whether a variable describes the machine and its tools rather than the
// application: it comes from the target only when include names it.
func localOnly(name string) bool {
	return slices.ContainsFunc(neverFromTarget, func(p string) bool { return match(p, name) })
}

// neverFromTarget are patterns of names that stay the laptop's.
var neverFromTarget = []string{
	// Where things are.
	"PATH", "HOME", "HOMEPATH", "PWD", "OLDPWD", "TMP", "TEMP", "TMPDIR",
	// Tool chains and their options.
	"CLASSPATH", "CATALINA_HOME", "JAVA_*", "_JAVA_OPTIONS", "PYTHONPATH", "GOPATH", "GOMODCACHE",
	"GEM_*", "BUNDLE_*", "BUNDLER_*", "RUBY*", "DOTNET_STARTUP_HOOKS", "DOTNET_EnableDiagnostics",
	// The loader would load the target's files, which are not here.
	"LD_PRELOAD", "LD_LIBRARY_PATH", "LD_AUDIT",
	// Ours and our like.
	"RUST_LOG", "MIRRORD_*",
}

func cut(kv string) (name, value string, ok bool) {
	name, value, ok = strings.Cut(kv, "=")
	return name, value, ok && name != ""
}

// split takes lists in which an entry may itself be a list with semicolons.
func split(list []string) []string {
	var out []string
	for _, e := range list {
		for p := range strings.SplitSeq(e, ";") {
			if p = strings.TrimSpace(p); p != "" {
				out = append(out, p)
			}
		}
	}
	return out
}

// match says whether the whole name follows the pattern, in which * is any run of
// characters and ? is any one. It takes time proportional to the product of the lengths at
// worst.
func match(pattern, name string) bool {
	p, n := 0, 0
	star, mark := -1, 0
	for n < len(name) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, n
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == name[n]):
			p++
			n++
		case star >= 0:
			// Let the last star take one character more.
			mark++
			p, n = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}
