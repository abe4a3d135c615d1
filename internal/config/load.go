package config

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/mirrord-go/mirrord/internal/config/origin"
	"github.com/mirrord-go/mirrord/internal/config/template"
	"github.com/mirrord-go/mirrord/internal/config/tree"
	"github.com/mirrord-go/mirrord/internal/version"
)

// LoadOptions says where a configuration comes from. The zero value is one of defaults.
type LoadOptions struct {
	// Path is the file: .json or no extension, .yaml, .yml, .toml; "-" reads JSON from Stdin;
	// empty is no file.
	Path string
	// Stdin is read when Path is "-".
	Stdin io.Reader
	// Environ returns environment variables; nil is an empty environment. An empty variable
	// counts as unset, except in templates.
	Environ func(name string) (string, bool)
	// Overrides are values from flags, which win over variables; later ones win over earlier.
	Overrides []Override
	// GitBranch returns the branch of the working directory for templates, and false when
	// there is none. It is called only for templates that ask, and not when the variable
	// MIRRORD_BRANCH_NAME is set; nil knows no branch.
	GitBranch func(context.Context) (string, bool)
	// NewKey makes the session's key when nobody gives one; nil makes a random one.
	NewKey func() string
	// Version is the tag of the agent's default image; empty is that of this program.
	Version string
}

// Override is the value of one field from a flag.
type Override struct {
	// Field is the path of a field that has a flag, such as "target.path".
	Field string
	// Value is in the notation of the field's environment variable.
	Value string
	// Flag is how the flag is shown as the origin, such as "--target".
	Flag string
}

// Load reads a configuration. It returns a [*Problems] with all that is wrong with it, or
// an error of reading the file, also when ctx ends before it could be read. What depends on several values together is not looked at
// before [Finalize], which follows after a profile was applied; when Load fails anyway, its
// problems include what Finalize would find as far as that is certain.
func Load(ctx context.Context, opts LoadOptions) (*Config, Warnings, error) {
	l := &loader{opts: opts, schema: schema(), found: leaves{}}
	source, err := l.read(ctx)
	if err != nil {
		return nil, nil, err
	}
	l.chooseKey(ctx, source)
	if err := l.file(ctx, source); err != nil {
		return nil, nil, err
	}
	l.environment()
	l.overrides()
	l.completeImage()
	c := l.config()
	if len(l.problems) > 0 {
		if !l.unreadable {
			v := &verifier{report: &l.report, c: c, undecided: true, beforeProfile: c.Profile != ""}
			v.all()
		}
		_, err := l.result()
		return nil, nil, err
	}
	warnings, _ := l.result()
	return c, warnings, nil
}

// loader goes through the steps of Load.
type loader struct {
	report
	opts   LoadOptions
	schema *table
	key    leaf
	found  leaves
	// unreadable: the file could not be parsed, and says nothing of what it may hold.
	unreadable bool
}

// variable returns an environment variable, "" when it is not set.
func (l *loader) variable(name string) string {
	if l.opts.Environ == nil {
		return ""
	}
	if value, ok := l.opts.Environ(name); ok {
		return value
	}
	return ""
}

// format chooses a notation by the file's extension.
func (l *loader) format() (tree.Format, error) {
	if l.opts.Path == "-" {
		return tree.JSON, nil
	}
	switch extension := strings.ToLower(filepath.Ext(l.opts.Path)); extension {
	case "", ".json":
		return tree.JSON, nil
	case ".yaml", ".yml":
		return tree.YAML, nil
	case ".toml":
		return tree.TOML, nil
	default:
		// A file such as .mirrord has a name and no extension.
		if extension == strings.ToLower(filepath.Base(l.opts.Path)) {
			return tree.JSON, nil
		}
		return 0, &Problems{List: []Problem{{
			Origin:  origin.Origin{Kind: origin.File, Name: l.opts.Path},
			Message: fmt.Sprintf("a configuration with the extension %s is not known", extension), Suggestion: "name it .json, .yaml, .yml or .toml",
		}}}
	}
}

// read returns the file, or nil without one.
func (l *loader) read(ctx context.Context) ([]byte, error) {
	if l.opts.Path == "" {
		return nil, nil
	}
	if _, err := l.format(); err != nil {
		return nil, err
	}
	type outcome struct {
		source []byte
		err    error
	}
	done := make(chan outcome, 1)
	// Nothing ends the reading of a terminal or a pipe that says nothing: it stays behind when ctx ends first.
	go func() {
		source, err := l.readAll()
		done <- outcome{source, err}
	}()
	select {
	case o := <-done:
		return o.source, o.err
	case <-ctx.Done():
		return nil, fmt.Errorf("reading the configuration: %w", context.Cause(ctx))
	}
}

// readAll waits for the whole file.
func (l *loader) readAll() ([]byte, error) {
	in := l.opts.Stdin
	if l.opts.Path != "-" {
		file, err := os.Open(l.opts.Path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, &MissingFileError{Path: l.opts.Path, Err: err}
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read the configuration: %w", err)
		}
		defer file.Close()
		in = file
	}
	if in == nil {
		return nil, errors.New("cannot read the configuration from standard input: there is none")
	}
	source, err := io.ReadAll(io.LimitReader(in, tree.MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read the configuration: %w", err)
	}
	return source, nil
}

// fileName is how the file is shown.
func (l *loader) fileName() string {
	if l.opts.Path == "-" {
		return "stdin"
	}
	return l.opts.Path
}

// place turns an offset of the source into an origin.
func (l *loader) place(source []byte, offset int) origin.Origin {
	line, column := tree.Position(source, offset)
	return origin.Origin{Kind: origin.File, Name: l.fileName(), Line: line, Column: column}
}

// chooseKey finds the session's key before the file is rendered, since the template may use
// it: from a flag, the environment, the file as it stands, or by making one.
func (l *loader) chooseKey(ctx context.Context, source []byte) {
	for i := len(l.opts.Overrides) - 1; i >= 0; i-- {
		if o := l.opts.Overrides[i]; o.Field == "key" && o.Value != "" {
			l.key = leaf{value: o.Value, origin: origin.Origin{Kind: origin.Flag, Name: o.Flag}}
			return
		}
	}
	if key := l.variable("MIRRORD_KEY"); key != "" {
		l.key = leaf{value: key, origin: origin.Origin{Kind: origin.Environment, Name: "MIRRORD_KEY"}}
		return
	}
	if l.keyInFile(ctx, source) {
		return
	}
	newKey := l.opts.NewKey
	if newKey == nil {
		newKey = randomKey
	}
	l.key = leaf{value: newKey()}
}

// keyInFile takes the key from the file, which may be a template of the branch alone. A file
// that is no document before it is rendered has none.
func (l *loader) keyInFile(ctx context.Context, source []byte) bool {
	format, err := l.format()
	if err != nil || len(source) == 0 {
		return false
	}
	root, _ := tree.Parse(format, source)
	if root == nil {
		return false
	}
	n := root.Get("key")
	if n == nil || n.Kind != tree.String || n.Text == "" {
		return false
	}
	branch := func(name string) (string, bool) { return l.branch(ctx, name) }
	rendered, err := template.Render(ctx, []byte(n.Text), template.Options{Variable: branch})
	if err != nil || len(rendered.Text) == 0 {
		return false
	}
	l.key = leaf{value: string(rendered.Text), origin: l.place(source, n.Offset)}
	return true
}

// randomKey makes five hexadecimal digits: enough to tell sessions apart, easy to type.
func randomKey() string {
	var b [3]byte
	_, _ = rand.Read(b[:]) // never fails (Go 1.24)
	return hex.EncodeToString(b[:])[:5]
}

// branch is the template variable git_branch.
func (l *loader) branch(ctx context.Context, name string) (string, bool) {
	if name != "git_branch" {
		return "", false
	}
	if branch := l.variable("MIRRORD_BRANCH_NAME"); branch != "" {
		return branch, true
	}
	if l.opts.GitBranch == nil {
		return "", false
	}
	branch, ok := l.opts.GitBranch(ctx)
	return branch, ok && branch != ""
}

// file renders, parses and decodes the file. An error is that of ctx.
func (l *loader) file(ctx context.Context, source []byte) error {
	if l.opts.Path == "" {
		return nil
	}
	rendered, err := template.Render(ctx, source, template.Options{
		Lookup: l.opts.Environ,
		Variable: func(name string) (string, bool) {
			if name == "key" {
				return l.key.value.(string), true
			}
			return l.branch(ctx, name)
		},
	})
	if bad := (*template.Error)(nil); errors.As(err, &bad) {
		l.problem(Problem{Origin: l.place(source, bad.Offset), Message: "in the template: " + bad.Message})
		l.unreadable = true
		return nil
	}
	if err != nil {
		return err
	}
	place := func(offset int) origin.Origin { return l.place(source, rendered.Source(offset)) }
	format, err := l.format()
	if err != nil {
		return err
	}
	root, err := tree.Parse(format, rendered.Text)
	for _, mistake := range tree.Errors(err) {
		l.problem(Problem{Origin: place(mistake.Offset), Message: mistake.Message})
	}
	if root == nil {
		l.unreadable = true
		return nil
	}
	d := &decoder{report: &l.report, schema: l.schema, place: place, found: l.found}
	d.root(root)
	return nil
}

// environment adds the variables, which win over the file.
func (l *loader) environment() {
	for _, f := range l.schema.fields {
		for _, name := range f.Env {
			text := l.variable(name)
			if text == "" || f.Path == "key" {
				continue
			}
			l.text(f, name, text, origin.Origin{Kind: origin.Environment, Name: name})
			break
		}
	}
}

// overrides adds the flags, which win over variables.
func (l *loader) overrides() {
	for _, o := range l.opts.Overrides {
		from := origin.Origin{Kind: origin.Flag, Name: o.Flag}
		f := l.schema.byPath[o.Field]
		if f == nil {
			l.problem(Problem{Path: o.Field, Origin: from, Message: "there is no such field"})
			continue
		}
		if f.Path != "key" {
			l.text(f, "", o.Value, from)
		}
	}
}

// text adds a value in the notation of variables.
func (l *loader) text(f *Field, variable, text string, from origin.Origin) {
	value, err := f.parseText(variable, text)
	if err != nil {
		p := Problem{Path: f.Path, Origin: from, Message: err.Error()}
		if bad := (*nodeError)(nil); errors.As(err, &bad) {
			p.Message, p.Suggestion = bad.message, bad.suggestion
		}
		if bad := (*TargetError)(nil); errors.As(err, &bad) {
			p.Message, p.Suggestion = fmt.Sprintf("%q is no target: %s", bad.Path, bad.Reason), bad.Suggestion
		}
		l.problem(p)
		return
	}
	added := leaf{value: value, origin: from}
	if f.check != nil {
		f.check(&checker{field: f, value: value, report: &l.report, leaf: added})
	}
	// "env": false is exclude: "*", which gives way to a list of what is wanted.
	if f.Path == "feature.env.include" {
		if exclude, ok := l.found["feature.env.exclude"]; ok && exclude.shorthand {
			delete(l.found, "feature.env.exclude")
		}
	}
	l.found[f.Path] = added
}

// completeImage puts the agent's image together from registry and tag, when it is not named
// whole. Here the file wins over the variables.
func (l *loader) completeImage() {
	part := func(name, variable, fallback string) leaf {
		if found, ok := l.found["agent.image."+name]; ok {
			delete(l.found, "agent.image."+name)
			return found
		}
		if text := l.variable(variable); text != "" {
			return leaf{value: text, origin: origin.Origin{Kind: origin.Environment, Name: variable}}
		}
		return leaf{value: fallback}
	}
	tag := l.opts.Version
	if tag == "" {
		tag = version.String()
	}
	registry := part("registry", "MIRRORD_AGENT_IMAGE_REGISTRY", agentRepository)
	version := part("tag", "MIRRORD_AGENT_IMAGE_TAG", tag)
	if _, whole := l.found["agent.image"]; whole {
		return
	}
	from := registry.origin
	if from.Kind == origin.Default {
		from = version.origin
	}
	l.found["agent.image"] = leaf{value: registry.value.(string) + ":" + version.value.(string), origin: from}
}

// config makes a Config of what was found, and of defaults.
func (l *loader) config() *Config {
	c := &Config{origins: origin.Map{}, extra: map[string]any{}}
	l.found["key"] = l.key
	for _, f := range l.schema.fields {
		found, ok := l.found[f.Path]
		if !ok && f.Default == nil {
			continue
		}
		if !ok {
			found.value = f.Default
		}
		if ok && found.origin.Kind != origin.Default {
			c.origins[f.Path] = found.origin
			for element, from := range found.elements {
				c.origins[f.Path+element] = from
			}
		}
		switch {
		case f.bind.set != nil:
			f.bind.set(c, found.value)
		case ok:
			c.extra[f.Path] = found.value
		}
	}
	c.derive()
	return c
}
