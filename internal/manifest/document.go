package manifest

import "fmt"

// Document is a text with a single document that need be no Kubernetes object, and the
// positions of its parts.
type Document struct {
	file string
	document
}

// ParseDocument reads a text in the notation of manifests, with one document.
func ParseDocument(file string, data []byte) (*Document, []Problem) {
	if len(data) > MaxFileSize {
		return nil, []Problem{{File: file, Message: fmt.Sprintf("the file is larger than %d MiB", MaxFileSize>>20)}}
	}
	documents, problems := parse(data)
	for i := range problems {
		problems[i].File = file
	}
	switch {
	case len(problems) > 0:
		return nil, problems
	case len(documents) == 0:
		return nil, []Problem{{File: file, Message: "the file is empty"}}
	case len(documents) > 1:
		return nil, []Problem{{File: file, Line: documents[1].line(""), Message: "the file has a second document; it is to have one"}}
	}
	return &Document{file, documents[0]}, nil
}

// Value is the document as encoding/json decodes it.
func (d *Document) Value() any { return d.object }

// Line is the line of a path such as "cases[1].name", or of what is nearest above it.
func (d *Document) Line(path string) int { return d.line(path) }

// Problem returns a problem at a path.
func (d *Document) Problem(path, message string) Problem {
	if path != "" {
		message = path + ": " + message
	}
	return Problem{File: d.file, Line: d.line(path), Message: message}
}
