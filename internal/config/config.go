// Package config turns what a user wrote, in a file, in environment variables and in flags,
// into one [Config] whose every value knows its origin. It is compatible with mirrord's file
// format; docs/config.md lists each field.
//
// Loading goes through fixed steps: the file is rendered as a template, parsed with the
// position of every key, checked against the known fields, and merged with variables and
// flags. All problems are collected and reported together. The package reads files and does
// no other input or output; profiles are applied to its result by package profile.
package config

import "github.com/mirrord-go/mirrord/internal/config/origin"

// Origin returns where the value at a dotted path came from, such as
// "feature.network.dns.enabled". A path that nobody set is a default.
func (c *Config) Origin(path string) origin.Origin { return c.origins[path] }

// SetOrigin records where the value at path came from. Package profile uses it for what an
// adjustment changed.
func (c *Config) SetOrigin(path string, o origin.Origin) {
	if c.origins == nil {
		c.origins = origin.Map{}
	}
	c.origins[path] = o
}
