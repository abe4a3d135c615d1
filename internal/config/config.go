// Package config turns what a user wrote, in a file, in environment variables and in flags,
// into one [Config] whose every value knows its origin. It is compatible with mirrord's file
// format; docs/config.md lists each field.
//
// Loading goes through fixed steps: the file is rendered as a template, parsed with the
// position of every key, checked against the known fields, and merged with variables and
// flags. All problems are collected and reported together. The package reads files and does
// no other input or output; profiles are applied to its result by package profile, and
// [Finalize] looks at what has come out of all that.
package config

import (
	"strings"

	"github.com/mirrord-go/mirrord/internal/config/origin"
)

//go:generate go run ./gendocs -o ../../docs/config.md

// Origin returns where the value at a dotted path came from, such as
// "feature.network.dns.enabled". What was set for all of an object or list is the origin of
// its parts. A path that nobody set is a default.
func (c *Config) Origin(path string) origin.Origin {
	for path != "" {
		if o, ok := c.origins[path]; ok {
			return o
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
	return origin.Origin{}
}

// SetOrigin records where the value at path came from. Package profile uses it for what an
// adjustment changed. What is known of parts of that value is forgotten.
func (c *Config) SetOrigin(path string, o origin.Origin) {
	if c.origins == nil {
		c.origins = origin.Map{}
	}
	for part := range c.origins {
		if rest, ok := strings.CutPrefix(part, path); ok && rest != "" && (rest[0] == '.' || rest[0] == '[') {
			delete(c.origins, part)
		}
	}
	c.origins[path] = o
}

// HasTarget tells whether anybody chose the target: one that is targetless because nobody
// named any is undecided in an editor, where the user is asked for one.
func (c *Config) HasTarget() bool {
	return c.Target.Path.Kind != Targetless || c.Origin("target.path").Kind != origin.Default
}
