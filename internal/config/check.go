package config

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"

	"github.com/mirrord-go/mirrord/internal/config/origin"
	"github.com/mirrord-go/mirrord/internal/pattern"
)

// checker looks at the value of one field, and reports what is wrong with it alone.
type checker struct {
	*report
	field *Field
	value any
	leaf  leaf
}

// fail reports a problem of a part of the value, "[2]" or ".name", or of all of it, "".
func (c *checker) fail(element, message, suggestion string) {
	place, ok := c.leaf.elements[element]
	if !ok {
		place = c.leaf.origin
	}
	c.problem(Problem{Path: c.field.Path + element, Origin: place, Message: message, Suggestion: suggestion})
}

// texts returns the value's texts with the names of the parts they stand in.
func (c *checker) texts() map[string]string {
	parts := map[string]string{}
	switch v := c.value.(type) {
	case string:
		parts[""] = v
	case []string:
		for i, text := range v {
			parts[fmt.Sprintf("[%d]", i)] = text
		}
	}
	return parts
}

func checkNotEmpty(c *checker) {
	if list, ok := c.value.([]string); ok && len(list) == 0 {
		c.fail("", "the list is empty", "remove it, or name what it is for")
	}
	for element, text := range c.texts() {
		if text == "" {
			c.fail(element, "is empty", "remove it, or give it a value")
		}
	}
}

func checkNotZero(c *checker) {
	if c.value == uint64(0) {
		c.fail("", "must be more than 0", "")
	}
}

func checkNamespaceName(c *checker) {
	if name, _ := c.value.(string); strings.Contains(name, ".") || !dnsName.MatchString(name) || len(name) > 63 {
		c.fail("", fmt.Sprintf("%q cannot be the name of a namespace", name), "")
	}
}

// checkPattern wants regular expressions as Go knows them.
func checkPattern(c *checker) {
	for element, text := range c.texts() {
		if text == "" {
			c.fail(element, "the pattern is empty", "remove it, or write .* to match everything")
		} else if _, err := regexp.Compile(text); err != nil {
			c.fail(element, patternMistake(err), "")
		}
	}
}

// patternMistake says what is wrong with a pattern, without the library's own words around.
func patternMistake(err error) string {
	if bad := (*syntax.Error)(nil); errors.As(err, &bad) {
		return fmt.Sprintf("is no regular expression: %s: %q", bad.Code, bad.Expr)
	}
	if bad := (*pattern.SyntaxError)(nil); errors.As(err, &bad) {
		return "is no regular expression: " + bad.Reason
	}
	return fmt.Sprintf("is no regular expression: %v", err)
}

func checkPatternKeys(c *checker) {
	patterns, _ := c.value.(map[string]string)
	for text := range patterns {
		if _, err := pattern.Compile(text); err != nil {
			c.fail("."+text, patternMistake(err), "")
		}
	}
}

func checkVariableNames(c *checker) {
	variables, _ := c.value.(map[string]string)
	for name := range variables {
		if name == "" || strings.ContainsAny(name, "=\x00") {
			c.fail("."+name, fmt.Sprintf("%q cannot be the name of a variable", name), "")
		}
	}
}

func checkOutgoingFilter(c *checker) { c.filterEntries(ParseOutgoingEntry) }
func checkDNSFilter(c *checker)      { c.filterEntries(ParseDNSEntry) }

func (c *checker) filterEntries(parse func(string) (FilterEntry, error)) {
	entries, _ := c.value.([]string)
	if len(entries) == 0 {
		c.fail("", "the list is empty", "remove the filter, or name destinations; to send nothing to the target, set the feature to false")
	}
	for i, entry := range entries {
		if _, err := parse(entry); err != nil {
			c.fail(fmt.Sprintf("[%d]", i), fmt.Sprintf("%q is no entry of a filter: %v", entry, err), "")
		}
	}
}

func checkPortPairs(c *checker) {
	pairs, _ := c.value.([][2]uint16)
	seen := [2]map[uint16]bool{{}, {}}
	sides := [2]string{"first", "second"}
	for i, pair := range pairs {
		element := fmt.Sprintf("[%d]", i)
		for side, port := range pair {
			switch {
			case port == 0:
				c.fail(element, "port 0 cannot be mapped", "")
			case seen[side][port]:
				c.fail(element, fmt.Sprintf("port %d is there twice as the %s of a pair", port, sides[side]), "keep one of the pairs")
			}
			seen[side][port] = true
		}
	}
}

func checkPortMapping(c *checker) {
	checkPortPairs(c)
	pairs, _ := c.value.([][2]uint16)
	for i, pair := range pairs {
		if pair[0] == pair[1] {
			element := fmt.Sprintf("[%d]", i)
			c.warning(Problem{Path: c.field.Path + element, Origin: c.place(element), Message: fmt.Sprintf("port %d is mapped to itself, which changes nothing", pair[0])})
		}
	}
}

func (c *checker) place(element string) origin.Origin {
	if place, ok := c.leaf.elements[element]; ok {
		return place
	}
	return c.leaf.origin
}

// File buffers as upstream bounds them.
const (
	maxFileBuffer   = 15 << 20
	largeFileBuffer = 1 << 20
)

func checkFileBuffer(c *checker) {
	switch size, _ := c.value.(uint64); {
	case size > maxFileBuffer:
		c.fail("", fmt.Sprintf("must be at most %d bytes", maxFileBuffer), "")
	case size > largeFileBuffer:
		c.warning(Problem{Path: c.field.Path, Origin: c.leaf.origin, Message: "more than 1 MiB is rarely of use"})
	}
}

// What agents allow for filters at most.
const (
	maxBodyBuffer = 1 << 20 // bytes
	maxFilterWait = 60_000  // milliseconds
	maxJQTime     = 1000    // milliseconds
)

// checkAtMost warns of a number above what the agent does.
func checkAtMost(most uint64, unit string) func(*checker) {
	return func(c *checker) {
		if n, _ := c.value.(uint64); n > most {
			c.warning(Problem{Path: c.field.Path, Origin: c.leaf.origin, Message: fmt.Sprintf("the agent's limit is %d %s, and is taken instead", most, unit)})
		}
	}
}

// logLevels are the levels of the agent, the most detailed first.
func logLevels() []string { return []string{"trace", "debug", "info", "warn", "error", "off"} }

func checkLogLevel(c *checker) {
	text, _ := c.value.(string)
	switch level := plainLogLevel(text); {
	case level == "":
		c.fail("", fmt.Sprintf("%q is no log level", text), "known are "+quotedList(logLevels()))
	case strings.ContainsAny(text, ",="):
		c.warning(Problem{Path: c.field.Path, Origin: c.leaf.origin, Message: "the agent has one level for all its parts, and takes " + level})
	}
}

// plainLogLevel returns the most detailed of levels such as "mirrord=debug,warn".
func plainLogLevel(text string) string {
	best := len(logLevels())
	for part := range strings.SplitSeq(text, ",") {
		_, level, found := cutLast(part, "=")
		if !found {
			level = part
		}
		i := slices.Index(logLevels(), strings.ToLower(strings.TrimSpace(level)))
		if i < 0 {
			return ""
		}
		best = min(best, i)
	}
	return logLevels()[best]
}

// capabilities are those that the agent uses.
func capabilities() []string {
	return []string{"BPF", "DAC_OVERRIDE", "NET_ADMIN", "NET_RAW", "SETGID", "SETUID", "SYS_ADMIN", "SYS_PTRACE", "SYS_RESOURCE"}
}

func checkCapabilities(c *checker) {
	names, _ := c.value.([]string)
	for i, name := range names {
		if !slices.Contains(capabilities(), strings.TrimPrefix(name, "CAP_")) {
			c.fail(fmt.Sprintf("[%d]", i), fmt.Sprintf("the agent has no capability %q", name), didYouMean(name, capabilities()))
		}
	}
}

func checkServerName(c *checker) {
	name, _ := c.value.(string)
	if _, err := netip.ParseAddr(name); err != nil && !dnsName.MatchString(strings.ToLower(name)) {
		c.fail("", fmt.Sprintf("%q cannot be the name of a server", name), "")
	}
}
