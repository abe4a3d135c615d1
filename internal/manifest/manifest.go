// Package manifest reads manifests of our own resource types from files and folders, and
// checks them against the same schema as in the cluster, unknown fields included.
//
// A folder is read as "kubectl apply -f FOLDER" reads it: every .yaml, .yml and .json file
// directly in it, each with any number of documents. Objects of other groups are ignored.
// What is read together is checked together: [Reader] collects all problems of all files,
// each with its line.
package manifest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// MaxFileSize is the size in bytes up to which files are read. A cluster does not store an
// object that is as large.
const MaxFileSize = 4 << 20

// Problem is one thing that is wrong in a file.
type Problem struct {
	File string `json:"file"`
	// Line is counted from 1; zero when the whole file is meant.
	Line    int    `json:"line,omitempty"`
	Message string `json:"message"`
}

// String is one line: "profiles/base.yaml:7: MESSAGE".
func (p Problem) String() string {
	if p.Line == 0 {
		return p.File + ": " + p.Message
	}
	return fmt.Sprintf("%s:%d: %s", p.File, p.Line, p.Message)
}

// Compare orders problems by file and line.
func (p Problem) Compare(other Problem) int {
	return cmp.Or(strings.Compare(p.File, other.File), p.Line-other.Line)
}

// Object is a manifest that passed the check.
type Object struct {
	Kind, Namespace, Name string
	// Value is the object as the API has it as JSON.
	Value map[string]any

	file     string
	document document
	at       string // path of the object in the document
}

// Source is where the object stands: "profiles/base.yaml:1".
func (o Object) Source() string { return fmt.Sprintf("%s:%d", o.file, o.document.line(o.at)) }

// Problem returns a problem at a path of the object, such as "spec.block[0]".
func (o Object) Problem(path, message string) Problem {
	return Problem{File: o.file, Line: o.document.line(join(o.at, path)), Message: message}
}

// Reader collects the manifests of one API group, and everything that is wrong with them.
// Make one with [NewReader].
type Reader struct {
	// Namespace is that of objects which have to have one and name none, as with "kubectl
	// apply -n". Without it, such an object is a problem.
	Namespace string

	schemas  schemas
	objects  []Object
	problems []Problem
	first    map[string]string // where each object was seen first
}

// NewReader returns a reader of the group's manifests.
func NewReader(g Group) (*Reader, error) {
	schemas, err := loadSchemas(g)
	if err != nil {
		return nil, err
	}
	return &Reader{schemas: schemas, first: map[string]string{}}, nil
}

// Objects are those that passed the check, in the order in which they were read.
func (r *Reader) Objects() []Object { return r.objects }

// Problems are in the order of the files and lines.
func (r *Reader) Problems() []Problem {
	slices.SortStableFunc(r.problems, Problem.Compare)
	return r.problems
}

// Folder reads a folder; with recursive those in it, too, but for hidden ones. It fails when
// a folder can't be read, or with the context.
func (r *Reader) Folder(ctx context.Context, dir string, recursive bool) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		name := filepath.Join(dir, entry.Name())
		if recursive && entry.IsDir() && !strings.HasPrefix(entry.Name(), ".") {
			if err := r.Folder(ctx, name, true); err != nil {
				return err
			}
			continue
		}
		if isManifest(name) {
			r.File(name)
		}
	}
	return nil
}

// Path reads a file, or a folder as [Reader.Folder] does.
func (r *Reader) Path(ctx context.Context, path string, recursive bool) error {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return err
	case info.IsDir():
		return r.Folder(ctx, path, recursive)
	}
	r.File(path)
	return nil
}

// isManifest reports whether kubectl would read the file.
func isManifest(name string) bool {
	switch filepath.Ext(name) {
	case ".yaml", ".yml", ".json":
	default:
		return false
	}
	info, err := os.Stat(name) // follows links, as mounted ConfigMaps have them
	return err != nil || !info.IsDir()
}

// File reads one file, whatever its name. That it can't be read is a problem as any other.
func (r *Reader) File(name string) {
	data, err := readFile(name)
	if err != nil {
		if pathErr, ok := errors.AsType[*fs.PathError](err); ok {
			err = pathErr.Err // the problem names the file already
		}
		r.report(name, 0, "%v", err)
		return
	}
	r.text(name, data)
}

func (r *Reader) text(name string, data []byte) {
	documents, problems := parse(data)
	for _, p := range problems {
		p.File = name
		r.problems = append(r.problems, p)
	}
	for _, d := range documents {
		r.object(name, d, "", d.object)
	}
}

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxFileSize+1))
	if err != nil {
		return nil, err
	}
	if len(data) > MaxFileSize {
		return nil, fmt.Errorf("the file is larger than %d MiB", MaxFileSize>>20)
	}
	return data, nil
}

func (r *Reader) report(file string, line int, format string, args ...any) {
	r.problems = append(r.problems, Problem{File: file, Line: line, Message: fmt.Sprintf(format, args...)})
}

// object checks one object of a document; at is its path there, empty for the document itself.
func (r *Reader) object(file string, d document, at string, value any) {
	object, ok := value.(map[string]any)
	if !ok {
		r.report(file, d.line(at), "%s is no Kubernetes object", orDocument(at))
		return
	}
	apiVersion, _ := object["apiVersion"].(string)
	kind, _ := object["kind"].(string)
	if apiVersion == "" || kind == "" {
		r.report(file, d.line(at), "%s is no Kubernetes object: it needs an apiVersion and a kind", orDocument(at))
		return
	}
	if items, ok := object["items"].([]any); ok && r.schemas.isList(apiVersion, kind) {
		for i, item := range items {
			r.object(file, d, join(at, fmt.Sprintf("items[%d]", i)), item)
		}
		return
	}
	schema, found, err := r.schemas.find(apiVersion, kind)
	switch {
	case err != nil:
		r.report(file, d.line(at), "%v", err)
		return
	case !found:
		return // not ours
	}
	if metadata, ok := object["metadata"].(map[string]any); ok && schema.namespaced && metadata["namespace"] == nil && r.Namespace != "" {
		metadata["namespace"] = r.Namespace
	}
	problems := schema.check(object)
	for _, p := range problems {
		path := join(at, p.path)
		r.report(file, d.line(path), "%s: %s", path, p.message)
	}
	if len(problems) > 0 {
		return
	}
	metadata, _ := object["metadata"].(map[string]any)
	o := Object{Kind: kind, Value: object, file: file, document: d, at: at}
	o.Namespace, _ = metadata["namespace"].(string)
	o.Name, _ = metadata["name"].(string)
	name := o.Name
	if o.Namespace != "" {
		name = o.Namespace + "/" + name
	}
	if first, seen := r.first[kind+" "+name]; seen {
		r.problems = append(r.problems, o.Problem("metadata.name", fmt.Sprintf("%s %q is defined a second time; the first is at %s", kind, name, first)))
		return
	}
	r.first[kind+" "+name] = o.Source()
	r.objects = append(r.objects, o)
}

func orDocument(at string) string {
	if at == "" {
		return "the document"
	}
	return at
}

// join appends a path to another; either may be empty.
func join(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "." + b
}
