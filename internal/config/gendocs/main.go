// Command gendocs writes docs/config.md from the table of fields in package config, so that
// the page cannot say anything else than the program does.
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/mirrord-go/mirrord/internal/config"
)

const introduction = `<!-- Written by internal/config/gendocs; change the tables in internal/config and run "go generate ./internal/config". -->

# Configuration

The configuration is one file of JSON, YAML or TOML, chosen by its extension (` + "`.json`" + ` or none, ` + "`.yaml`, `.yml`, `.toml`" + `):
` + "`mirrord exec -f mirrord.json -- ./server`" + `. It is the file format of mirrord; this page says what this program makes of each field.

- **Which file.** ` + "`-f FILE`" + `; ` + "`-f -`" + ` reads JSON from standard input; ` + "`-f`" + ` alone is ` + "`./.mirrord/mirrord.json`" + `; without ` + "`-f`" + `, the variable
  ` + "`MIRRORD_CONFIG_FILE`" + ` names the file; without that, there is none, and defaults hold.
- **Which value wins.** Default, then file, then environment variable, then flag, then the profile, each over the one before, for each field on
  its own: a variable also sets a field of a section that the file switches off. An empty variable counts as unset. Lists in variables have ` + "`;`" + ` between.
  ` + "`mirrord profile explain -f FILE`" + ` shows each value and where it came from.
- **JSON** may have ` + "`// comments`" + ` and trailing commas. A key that the format does not have is an error, and so is one that stands twice.
- **Templates.** The file is rendered before it is read, in the language of Tera: ` + "`{{ get_env(name=\"TEAM\", default=\"base\") }}`, `{{ key }}`" + ` (the
  session's key), ` + "`{{ git_branch | default(value=\"none\") }}`, `{% if %}`, `{% for %}`, `{% set %}`, `{# comments #}`" + `. A name without a value is an
  error. A template cannot read files.
- **Checking.** ` + "`mirrord verify-config FILE`" + ` reports everything that is wrong with a file at once, each with its line and column.

## Status

A field that this version knows and cannot do never passes silently.

| status | meaning |
|---|---|
| supported | does what it says |
| not supported yet | an error when it asks for something: to ignore it would send traffic or data elsewhere than you asked |
| ignored | no effect; a warning when it asks for something |
| no effect | belongs to something that this program does not have or does not need; accepted |

## Shorter notations

| field | instead of an object |
|---|---|
`

func main() {
	out := flag.String("o", "", "the file to write")
	flag.Parse()
	if err := os.WriteFile(*out, page(), 0o644); err != nil { //nolint:gosec // documentation is for everybody
		fmt.Fprintln(os.Stderr, "gendocs:", err)
		os.Exit(1)
	}
}

// page returns the whole page.
func page() []byte {
	var b bytes.Buffer
	b.WriteString(introduction)
	sections := config.Sections()
	for _, path := range slices.Sorted(maps.Keys(sections)) {
		fmt.Fprintf(&b, "| `%s` | %s |\n", path, cell(sections[path]))
	}
	heading := ""
	for _, f := range config.Fields() {
		if h := headingOf(f.Path); h != heading {
			heading = h
			fmt.Fprintf(&b, "\n## %s\n\n| field | values | default | variable, flag | status | meaning |\n|---|---|---|---|---|---|\n", heading)
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s | %s |\n", f.Path, cell(f.Type()), cell(defaultOf(f)), cell(setBy(f)), f.Status, cell(meaning(f)))
	}
	b.WriteString(proofs)
	for _, f := range config.Fields() {
		if f.Proof != "" {
			fmt.Fprintf(&b, "| `%s` | %s | %s |\n", f.Path, f.Status, proof(f.Proof))
		}
	}
	return b.Bytes()
}

const proofs = `
## What shows it

Each field that shapes a session has a test that tries its effect on a real cluster (in ` + "`test/e2e`" + `), or a paragraph in
[limits.md](limits.md) that says what happens instead.

| field | status | shown by |
|---|---|---|
`

// proof is a test's name, or a link.
func proof(p string) string {
	if _, section, isLimit := strings.Cut(p, "#"); isLimit {
		return fmt.Sprintf("[limits: %s](%s)", strings.ReplaceAll(section, "-", " "), p)
	}
	return "`" + p + "`"
}

// headingOf groups fields by what stands above them.
func headingOf(path string) string {
	parts := strings.Split(path, ".")
	switch {
	case len(parts) == 1 || parts[0] == "target":
		return "Root and target"
	case parts[0] == "feature" && parts[1] == "network":
		if len(parts) == 3 {
			return "feature.network"
		}
		return "feature.network." + parts[2]
	case parts[0] == "feature":
		if len(parts) == 2 {
			return "Other features"
		}
		return "feature." + parts[1]
	}
	return parts[0]
}

func defaultOf(f *config.Field) string {
	if f.DefaultText != "" {
		return f.DefaultText
	}
	if f.Default == nil {
		return ""
	}
	encoded, err := json.Marshal(f.Default)
	if err != nil {
		return fmt.Sprint(f.Default)
	}
	return "`" + string(encoded) + "`"
}

func setBy(f *config.Field) string {
	var by []string
	for _, name := range f.Env {
		by = append(by, "`"+name+"`")
	}
	if f.Flag != "" {
		for name := range strings.SplitSeq(f.Flag, ", ") {
			by = append(by, "`"+name+"`")
		}
	}
	return strings.Join(by, ", ")
}

func meaning(f *config.Field) string {
	if f.Note == "" || f.Status == config.Supported {
		return f.Doc
	}
	return f.Doc + " *" + strings.ToUpper(f.Note[:1]) + f.Note[1:] + ".*"
}

// cell makes text fit into a table.
func cell(text string) string {
	return strings.ReplaceAll(text, "|", `\|`)
}
