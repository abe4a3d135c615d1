package config

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/mirrord-go/mirrord/internal/config/origin"
	"github.com/mirrord-go/mirrord/internal/config/tree"
)

// leaf is the value of one field and where it came from.
type leaf struct {
	value  any
	origin origin.Origin
	// elements are the places of the value's parts: "[2]" of a list, ".name" of an object.
	elements map[string]origin.Origin
	// shorthand: the file does not have the field itself, but a shorter notation above it.
	shorthand bool
}

// leaves are values by the path of their field.
type leaves map[string]leaf

// decoder turns the tree of a file into leaves. It knows the schema, and nothing of what
// values mean together.
type decoder struct {
	*report
	schema *table
	// place turns an offset of the tree into a place in the file.
	place func(offset int) origin.Origin
	found leaves
}

func (d *decoder) fail(path string, offset int, message, suggestion string) {
	d.problem(Problem{Path: path, Origin: d.place(offset), Message: message, Suggestion: suggestion})
}

func (d *decoder) wrongType(path string, n *tree.Node, want string) {
	d.fail(path, n.Offset, "must be "+want+", not "+n.Kind.String(), "")
}

// root reads the whole file.
func (d *decoder) root(n *tree.Node) {
	if n.Kind != tree.Object {
		d.fail("", n.Offset, "a configuration is an object, not "+n.Kind.String(), "")
		return
	}
	d.object("", n)
}

// object reads the members of an object that stands at path.
func (d *decoder) object(path string, n *tree.Node) {
	for _, m := range n.Members {
		child := joinPath(path, m.Key)
		if path == "" && m.Key == "$schema" {
			continue // editors put it there
		}
		f, isField := d.schema.byPath[child]
		_, isSection := d.schema.keys[child]
		switch {
		case child == "target":
			d.target(m.Value)
		case child == "agent.image" && m.Value.Kind == tree.Object:
			d.image(m.Value)
		case isField:
			d.field(f, m.Value)
		case isSection:
			d.section(child, m.Value)
		default:
			d.unknown(path, m)
		}
	}
}

func (d *decoder) unknown(path string, m tree.Member) {
	child := joinPath(path, m.Key)
	if message, removed := removedKeys()[child]; removed {
		d.fail(child, m.Offset, message, "")
		return
	}
	known := d.schema.keys[path]
	suggestion := didYouMean(m.Key, known)
	if where := d.schema.elsewhere(m.Key); where != "" && nearest(m.Key, known) == "" {
		suggestion = "it belongs at " + where
	}
	where := path
	if where == "" {
		where = "a configuration"
	}
	d.fail("", m.Offset, fmt.Sprintf("%s has no field %q", where, m.Key), suggestion)
}

// section reads an object that holds fields, or its shorter notation.
func (d *decoder) section(path string, n *tree.Node) {
	switch n.Kind {
	case tree.Null:
		return
	case tree.Object:
		if path == "feature.copy_target" && n.Get("enabled") == nil {
			d.set("feature.copy_target.enabled", true, n.Offset)
		}
		d.object(path, n)
		return
	}
	if !d.shorthand(path, n) {
		want := "an object"
		if short, ok := Sections()[path]; ok {
			want += ", or " + short
		}
		d.wrongType(path, n, want)
	}
}

func (d *decoder) set(path string, value any, offset int) {
	d.found[path] = leaf{value: value, origin: d.place(offset), shorthand: true}
}

// shorthand reads the notations of Sections; false when n is none.
func (d *decoder) shorthand(path string, n *tree.Node) bool {
	isBool, on := n.Kind == tree.Bool, n.Bool
	const network = "feature.network"
	switch path {
	case network + ".incoming", "feature.fs":
		return d.modeShorthand(path+".mode", n)
	}
	if !isBool {
		return false
	}
	switch path {
	case network:
		mode := string(IncomingMirror)
		if !on {
			mode = string(IncomingOff)
		}
		d.set(network+".incoming.mode", mode, n.Offset)
		d.set(network+".outgoing.tcp", on, n.Offset)
		d.set(network+".outgoing.udp", on, n.Offset)
		d.set(network+".dns.enabled", on, n.Offset)
	case network + ".outgoing":
		d.set(path+".tcp", on, n.Offset)
		d.set(path+".udp", on, n.Offset)
	case network + ".dns", "feature.copy_target":
		d.set(path+".enabled", on, n.Offset)
	case "feature.env":
		if !on {
			d.set(path+".exclude", []string{"*"}, n.Offset)
		}
	case network + ".incoming.http_filter":
	default:
		return false
	}
	return true
}

// modeShorthand reads a mode, or true or false for one, in place of an object with a mode.
func (d *decoder) modeShorthand(path string, n *tree.Node) bool {
	values := map[bool]string{true: string(IncomingMirror), false: string(IncomingOff)}
	if path == "feature.fs.mode" {
		values = map[bool]string{true: string(FSRead), false: string(FSLocal)}
	}
	switch n.Kind {
	case tree.Bool:
		d.set(path, values[n.Bool], n.Offset)
	case tree.String:
		d.field(d.schema.byPath[path], n)
	default:
		return false
	}
	return true
}

// target reads the forms of a target: a path, {path, namespace}, or an object that names a
// workload by its kind.
func (d *decoder) target(n *tree.Node) {
	path := n
	switch n.Kind {
	case tree.Null:
		return
	case tree.Object:
		if !slices.ContainsFunc(n.Members, func(m tree.Member) bool { return m.Key == "path" || m.Key == "namespace" }) {
			if len(n.Members) == 0 {
				return
			}
			break
		}
		path = nil
		for _, m := range n.Members {
			switch m.Key {
			case "path":
				path = m.Value
			case "namespace":
				d.field(d.schema.byPath["target.namespace"], m.Value)
			default:
				d.unknown("target", m)
			}
		}
	}
	if path == nil || path.Kind == tree.Null {
		return
	}
	value, err := targetFromNode(path)
	if bad := (*nodeError)(nil); errors.As(err, &bad) {
		d.fail("target", bad.offset, bad.message, bad.suggestion)
		return
	}
	d.set("target.path", value, path.Offset)
}

// image reads the agent's image as an object; what it leaves open is filled in later.
func (d *decoder) image(n *tree.Node) {
	for _, m := range n.Members {
		switch {
		case m.Key != "registry" && m.Key != "tag":
			d.fail("", m.Offset, fmt.Sprintf("agent.image has no field %q", m.Key), didYouMean(m.Key, []string{"registry", "tag"}))
		case m.Value.Kind == tree.String && m.Value.Text != "":
			d.set("agent.image."+m.Key, m.Value.Text, m.Value.Offset)
		case m.Value.Kind != tree.Null:
			d.wrongType("agent.image."+m.Key, m.Value, "a string")
		}
	}
}

// field reads the value of one field.
func (d *decoder) field(f *Field, n *tree.Node) {
	if n.Kind == tree.Null {
		return
	}
	l := leaf{origin: d.place(n.Offset), elements: map[string]origin.Origin{}}
	before := len(d.problems)
	l.value = d.value(f, n, &l)
	if len(d.problems) > before {
		return
	}
	if f.check != nil {
		f.check(&checker{field: f, value: l.value, report: d.report, leaf: l})
	}
	d.found[f.Path] = l
}

func (d *decoder) value(f *Field, n *tree.Node, l *leaf) any {
	elements := l.elements
	switch f.kind {
	case kindBool:
		if n.Kind == tree.Bool {
			return n.Bool
		}
	case kindText:
		if n.Kind == tree.String {
			return d.enum(f, n)
		}
	case kindUint:
		if n.Kind == tree.Number {
			return d.number(f.Path, n, f.max)
		}
	case kindTexts:
		if texts, ok := d.texts(f.Path, n, elements); ok {
			return texts
		}
	case kindTextMap:
		if n.Kind == tree.Object {
			return d.textMap(f.Path, n, elements)
		}
	case kindPort:
		if ports, ok := d.ports(f.Path, n, elements); ok {
			return ports
		}
	case kindPortPairs:
		if n.Kind == tree.List {
			return d.portPairs(f.Path, n, elements)
		}
	case kindSecrets:
		if n.Kind == tree.List {
			return d.secrets(f.Path, n, elements)
		}
	case kindObjects:
		if n.Kind == tree.List {
			return d.objects(f.Path, n, elements)
		}
	case kindObject:
		if n.Kind == tree.Object {
			return n.Value()
		}
	case kindHTTPRules:
		if n.Kind == tree.List {
			return d.httpRules(f, n, l)
		}
	case kindHTTPBody:
		r, _ := d.httpRule(f, n, "", l)
		return r
	case kindAny:
		for i, item := range n.Items {
			elements[fmt.Sprintf("[%d]", i)] = d.place(item.Offset)
		}
		return n.Value()
	}
	d.fail(f.Path, n.Offset, "must be "+f.Type()+", not "+n.Kind.String(), f.form)
	return nil
}

func (d *decoder) enum(f *Field, n *tree.Node) any {
	if message, suggestion := enumMistake(f, n.Text); message != "" {
		d.fail(f.Path, n.Offset, message, suggestion)
	}
	return n.Text
}

// enumMistake says what is wrong with a text that has only some values; "" is nothing.
func enumMistake(f *Field, text string) (message, suggestion string) {
	if len(f.Enum) == 0 || slices.Contains(f.Enum, text) {
		return "", ""
	}
	if near := nearest(text, f.Enum); near != "" {
		suggestion = fmt.Sprintf("did you mean %q?", near)
	}
	return fmt.Sprintf("must be one of %s, not %q", quotedList(f.Enum), text), suggestion
}

// number reads a whole number of 0 to most.
func (d *decoder) number(path string, n *tree.Node, most uint64) uint64 {
	v, err := strconv.ParseUint(n.Text, 10, 64)
	if err != nil || v > most {
		d.fail(path, n.Offset, fmt.Sprintf("must be a whole number from 0 to %d, not %s", most, n.Text), "")
	}
	return v
}

// texts reads a string or a list of strings.
func (d *decoder) texts(path string, n *tree.Node, elements map[string]origin.Origin) ([]string, bool) {
	if n.Kind == tree.String {
		elements["[0]"] = d.place(n.Offset)
		return []string{n.Text}, true
	}
	if n.Kind != tree.List {
		return nil, false
	}
	list := make([]string, 0, len(n.Items))
	for i, item := range n.Items {
		element := fmt.Sprintf("[%d]", i)
		if item.Kind != tree.String {
			d.wrongType(path+element, item, "a string")
			continue
		}
		elements[element] = d.place(item.Offset)
		list = append(list, item.Text)
	}
	return list, true
}

func (d *decoder) textMap(path string, n *tree.Node, elements map[string]origin.Origin) map[string]string {
	values := make(map[string]string, len(n.Members))
	for _, m := range n.Members {
		switch m.Value.Kind {
		case tree.String, tree.Number:
			values[m.Key] = m.Value.Text
		case tree.Bool:
			values[m.Key] = strconv.FormatBool(m.Value.Bool)
		default:
			d.wrongType(joinPath(path, m.Key), m.Value, "a string")
			continue
		}
		elements["."+m.Key] = d.place(m.Offset)
	}
	return values
}

func (d *decoder) port(path string, n *tree.Node) uint16 {
	if n.Kind != tree.Number {
		d.wrongType(path, n, "a port number")
		return 0
	}
	return uint16(min(d.number(path, n, math.MaxUint16), math.MaxUint16))
}

func (d *decoder) ports(path string, n *tree.Node, elements map[string]origin.Origin) ([]uint16, bool) {
	items := n.Items
	switch n.Kind {
	case tree.Number:
		items = []*tree.Node{n}
	case tree.List:
	default:
		return nil, false
	}
	list := make([]uint16, 0, len(items))
	for i, item := range items {
		element := fmt.Sprintf("[%d]", i)
		elements[element] = d.place(item.Offset)
		list = append(list, d.port(path+element, item))
	}
	return list, true
}

func (d *decoder) portPairs(path string, n *tree.Node, elements map[string]origin.Origin) [][2]uint16 {
	pairs := make([][2]uint16, 0, len(n.Items))
	for i, item := range n.Items {
		element := fmt.Sprintf("[%d]", i)
		if item.Kind != tree.List || len(item.Items) != 2 {
			d.fail(path+element, item.Offset, "must be a pair of ports, such as [8080, 80]", "")
			continue
		}
		elements[element] = d.place(item.Offset)
		pairs = append(pairs, [2]uint16{d.port(path+element, item.Items[0]), d.port(path+element, item.Items[1])})
	}
	return pairs
}

func (d *decoder) secrets(path string, n *tree.Node, elements map[string]origin.Origin) []string {
	names := make([]string, 0, len(n.Items))
	for i, item := range n.Items {
		element := fmt.Sprintf("[%d]", i)
		name := item.Get("name")
		if item.Kind != tree.Object || len(item.Members) != 1 || name == nil || name.Kind != tree.String || !dnsName.MatchString(name.Text) {
			d.fail(path+element, item.Offset, `must be an object with the name of a secret, such as {"name": "registry"}`, "")
			continue
		}
		elements[element] = d.place(item.Offset)
		names = append(names, name.Text)
	}
	return names
}

func (d *decoder) objects(path string, n *tree.Node, elements map[string]origin.Origin) []map[string]any {
	list := make([]map[string]any, 0, len(n.Items))
	for i, item := range n.Items {
		element := fmt.Sprintf("[%d]", i)
		object, ok := item.Value().(map[string]any)
		if !ok {
			d.wrongType(path+element, item, "an object")
			continue
		}
		elements[element] = d.place(item.Offset)
		list = append(list, object)
	}
	return list
}

// parseText reads a value in the notation of environment variables and flags: lists with
// semicolons between, true or false, and texts as they are.
func (f *Field) parseText(variable, text string) (any, error) {
	if f.parse != nil {
		return f.parse(variable, text)
	}
	switch f.kind {
	case kindBool:
		switch strings.ToLower(text) {
		case "true", "1", "yes", "on":
			return true, nil
		case "false", "0", "no", "off":
			return false, nil
		}
		return nil, errors.New("must be true or false")
	case kindText:
		if message, suggestion := enumMistake(f, text); message != "" {
			return nil, &nodeError{message: message, suggestion: suggestion}
		}
		return text, nil
	case kindUint:
		v, err := strconv.ParseUint(text, 10, 64)
		if err != nil || v > f.max {
			return nil, fmt.Errorf("must be a whole number from 0 to %d", f.max)
		}
		return v, nil
	case kindTexts:
		return strings.Split(strings.Trim(text, ";"), ";"), nil
	case kindPort:
		var ports []uint16
		for part := range strings.SplitSeq(text, ";") {
			v, err := strconv.ParseUint(strings.TrimSpace(part), 10, 16)
			if err != nil {
				return nil, fmt.Errorf("%q is no port", part)
			}
			ports = append(ports, uint16(v))
		}
		return ports, nil
	case kindTarget:
		path, err := ParseTargetPath(text)
		return path, err
	}
	return nil, errors.New("this field cannot be set so")
}

func parseIncomingMode(_, text string) (any, error) {
	switch strings.ToLower(text) {
	case "true", "1", "steal":
		return string(IncomingSteal), nil
	case "false", "0", "off":
		return string(IncomingOff), nil
	case "mirror":
		return string(IncomingMirror), nil
	}
	return nil, errors.New("must be mirror, steal or off; true is steal, false is off")
}

// parseFSMode reads a mode; the older variables are true or false.
func parseFSMode(variable, text string) (any, error) {
	modes := map[string]FSMode{"read": FSRead, "write": FSWrite, "local": FSLocal, "localwithoverrides": FSLocalWithOverrides}
	switch variable {
	case "MIRRORD_FILE_OPS":
		modes = map[string]FSMode{"true": FSWrite, "false": FSLocal}
	case "MIRRORD_FILE_RO_OPS":
		modes = map[string]FSMode{"true": FSRead, "false": FSLocal}
	}
	if mode, ok := modes[strings.ToLower(text)]; ok {
		return string(mode), nil
	}
	return nil, errors.New("must be one of " + quotedList(slices.Sorted(maps.Keys(modes))))
}
