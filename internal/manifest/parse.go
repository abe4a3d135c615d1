package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	k8sjson "sigs.k8s.io/json"
	k8syaml "sigs.k8s.io/yaml"
)

// document is one document of a file: its value, and where its parts stand.
type document struct {
	object any
	root   *yaml.Node // nil when positions are not known
	offset int        // lines of the file before the document
}

// parse reads the documents of a file as kubectl does: a file that starts with a brace is a
// stream of JSON values, any other is YAML with documents between lines of three dashes.
// The problems have no file yet.
func parse(data []byte) ([]document, []Problem) {
	if bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")) {
		return parseJSON(data)
	}
	var documents []document
	var problems []Problem
	for _, c := range split(data) {
		d, err := parseYAML(c)
		switch {
		case err != nil:
			line, message := positionOf(err)
			line = min(max(line, 1), 1+bytes.Count(c.text, []byte("\n"))) // the parser may be one line past the end
			problems = append(problems, Problem{Line: c.offset + line, Message: message})
		case d.object != nil:
			documents = append(documents, d)
		}
	}
	return documents, problems
}

// chunk is the text of one document.
type chunk struct {
	text   []byte
	offset int // lines of the file before it
}

// split cuts YAML at its separators: lines with three dashes, followed by nothing but
// blanks and comments.
func split(data []byte) []chunk {
	var chunks []chunk
	start, offset, line := 0, 0, 0
	for at := 0; at < len(data); {
		end := len(data)
		if i := bytes.IndexByte(data[at:], '\n'); i >= 0 {
			end = at + i + 1
		}
		line++
		if rest, ok := bytes.CutPrefix(data[at:end], []byte("---")); ok {
			if rest = bytes.TrimSpace(rest); len(rest) == 0 || rest[0] == '#' {
				chunks = append(chunks, chunk{data[start:at], offset})
				start, offset = end, line
			}
		}
		at = end
	}
	return append(chunks, chunk{data[start:], offset})
}

// parseYAML reads one document. A document of nothing but comments has the object nil.
func parseYAML(c chunk) (document, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(c.text))
	var node yaml.Node
	switch err := decoder.Decode(&node); {
	case errors.Is(err, io.EOF):
		return document{}, nil
	case err != nil:
		return document{}, err
	}
	// kubectl would read the first document of such a text and drop the others in silence.
	if err := decoder.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return document{}, errors.New(`a "---" between documents must stand alone on its line`)
	}
	text, err := k8syaml.YAMLToJSONStrict(c.text) // with the values that kubectl would read
	if err != nil {
		return document{}, err
	}
	object, err := decodeJSON(text)
	return document{object: object, root: content(&node), offset: c.offset}, err
}

func parseJSON(data []byte) ([]document, []Problem) {
	var documents []document
	decoder := json.NewDecoder(bytes.NewReader(data))
	for {
		var raw json.RawMessage
		err := decoder.Decode(&raw)
		at := min(int(decoder.InputOffset()), len(data))
		if errors.Is(err, io.EOF) {
			return documents, nil
		}
		if err == nil {
			at -= len(raw)
			var object any
			if object, err = decodeJSON(raw); err == nil {
				documents = append(documents, document{
					object: object, root: jsonNodes(raw), offset: bytes.Count(data[:at], []byte("\n")),
				})
				continue
			}
		} else if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
			at = min(max(int(syntax.Offset), at), len(data))
		}
		line := 1 + bytes.Count(data[:at], []byte("\n"))
		return documents, []Problem{{Line: line, Message: "no valid JSON: " + err.Error()}}
	}
}

// jsonNodes returns the positions in a JSON value, which is YAML as well, apart from
// whitespace that YAML does not know: then there are none.
func jsonNodes(raw []byte) *yaml.Node {
	var node yaml.Node
	if err := yaml.Unmarshal(raw, &node); err != nil {
		return nil
	}
	return content(&node)
}

// decodeJSON decodes as the API server does, and refuses keys that occur twice.
func decodeJSON(data []byte) (any, error) {
	var object any
	strict, err := k8sjson.UnmarshalStrict(data, &object, k8sjson.DisallowDuplicateFields)
	if err != nil {
		return nil, err
	}
	return object, errors.Join(strict...)
}

// content returns the value of a document's node.
func content(node *yaml.Node) *yaml.Node {
	if node.Kind == yaml.DocumentNode && len(node.Content) == 1 {
		return node.Content[0]
	}
	return nil
}

var yamlLine = regexp.MustCompile(`^yaml: (?:unmarshal errors:\s+)?line (\d+): (.*)`)

// positionOf takes the line out of an error of the YAML parser, which has it only in its
// text. The line is zero when there is none.
func positionOf(err error) (line int, message string) {
	if m := yamlLine.FindStringSubmatch(strings.TrimPrefix(err.Error(), "error converting YAML to JSON: ")); m != nil {
		if n, atoiErr := strconv.Atoi(m[1]); atoiErr == nil {
			return n, "no valid YAML: " + m[2]
		}
	}
	return 0, fmt.Sprintf("no valid YAML: %v", err)
}

// line returns the line of the file, from 1, where the value at path stands, or the value
// nearest above it that exists; the path is such as "spec.featureAdjustments[1].change".
func (d document) line(path string) int {
	node, line := d.root, 1
	if node != nil {
		line = node.Line
	}
	for step := range strings.FieldsFuncSeq(path, func(r rune) bool { return r == '.' || r == '[' || r == ']' }) {
		key, value := child(node, step)
		if value == nil {
			break
		}
		node, line = value, key.Line
	}
	return d.offset + line
}

// child returns the value at a key of a mapping or an index of a sequence, and the node
// where it begins, which is the key for a mapping.
func child(node *yaml.Node, step string) (key, value *yaml.Node) {
	for node != nil && node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	if node == nil {
		return nil, nil
	}
	switch node.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(node.Content); i += 2 {
			if node.Content[i].Value == step {
				return node.Content[i], node.Content[i+1]
			}
		}
	case yaml.SequenceNode:
		if i, err := strconv.Atoi(step); err == nil && i >= 0 && i < len(node.Content) {
			return node.Content[i], node.Content[i]
		}
	}
	return nil, nil
}
