// Package suite runs a team's own tests of its policies: cases that say which sessions are to
// be allowed and which refused, in a file beside the policies.
//
// [Load] reads the file; everything that is wrong with it is found at once, with its line.
// [Suite.Run] decides about each case as the operator would. No cluster is asked.
package suite

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
	k8sjson "sigs.k8s.io/json"

	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/grant"
	"github.com/mirrord-go/mirrord/internal/manifest"
	"github.com/mirrord-go/mirrord/internal/profile"
)

// Suite is a file of cases.
type Suite struct {
	// Policies is the folder of the policies, and Profiles that of the profiles, relative to
	// the file. Profiles may be missing.
	Policies string `json:"policies"`
	Profiles string `json:"profiles"`
	// Cases are run in their order.
	Cases []Case `json:"cases"`

	dir string // of the file
}

// Case is one session.
type Case struct {
	// Name tells cases apart; it is there for people.
	Name string `json:"name"`
	// Target is the session's as in a configuration, such as "deployment/shop"; Namespace is
	// its namespace. With Config they win over the configuration's.
	Target    string `json:"target"`
	Namespace string `json:"namespace"`
	// Labels are the target's labels; of labels as a target, those of its pods.
	Labels map[string]string `json:"labels"`
	// Owners are what the target belongs to, and other objects that the session attaches to.
	Owners []Owner `json:"owners"`
	// Config is the path of a configuration file, relative to the suite, or a configuration.
	// Its profile is applied as exec does.
	Config json.RawMessage `json:"config"`
	// Features are those of the session in the form of the sessions API, instead of Config:
	// what they do not name is as in a session without a configuration. No profile is applied
	// to them, so that they can be those of a client that does not keep to it.
	Features json.RawMessage `json:"features"`
	// Profile is the profile that the session names. With Config it wins over the
	// configuration's.
	Profile string `json:"profile"`
	// Expect is what is to come of it.
	Expect Expectation `json:"expect"`
	// By, when it is there, are exactly the policies that refuse the session.
	By []string `json:"by"`
	// Codes, when they are there, are exactly the codes of the reasons.
	Codes []string `json:"codes"`
	// Connections are what the session tries when it is allowed, and Variables the variables
	// of the target that it may get or not.
	Connections []Connection           `json:"connections"`
	Variables   map[string]Expectation `json:"variables"`

	// Line is where the case stands in the file.
	Line int `json:"-"`

	path   config.TargetPath
	inline []byte // a configuration as JSON
	file   string // or its path
}

// Owner is an object that has to do with the target.
type Owner struct {
	// Object is its kind and name, such as "deployment/shop".
	Object string            `json:"object"`
	Labels map[string]string `json:"labels"`

	path config.TargetPath
}

// Connection is one that the session tries.
type Connection struct {
	// To is an address and port, such as "10.0.0.1:443". Protocol is "tcp" (the default) or
	// "udp".
	To       string `json:"to"`
	Protocol string `json:"protocol"`
	// Names are those that the session resolved the address from.
	Names  []string    `json:"names"`
	Expect Expectation `json:"expect"`
	// By, when it is there, are exactly the policies that refuse it.
	By []string `json:"by"`

	addr netip.AddrPort
}

// Expectation is what is to come of something.
type Expectation string

// The expectations.
const (
	Allowed Expectation = "allowed"
	Refused Expectation = "refused"
)

// Load reads a suite. It fails with [*manifest.InvalidError], or when the file can't be read.
func Load(path string) (*Suite, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	s, problems := Parse(path, data)
	if len(problems) > 0 {
		return nil, &InvalidError{Problems: problems}
	}
	return s, nil
}

// InvalidError says what is wrong with a suite.
type InvalidError struct{ Problems []manifest.Problem }

func (e *InvalidError) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// Hint says where the format is written down.
func (*InvalidError) Hint() string { return "docs/policies.md has the format of suites." }

// Parse reads the text of a suite; path is for messages, and its folder is what paths in the
// suite are relative to.
func Parse(path string, data []byte) (*Suite, []manifest.Problem) {
	document, problems := manifest.ParseDocument(path, data)
	if len(problems) > 0 {
		return nil, problems
	}
	p := &parser{document: document}
	s := p.suite()
	if len(p.problems) > 0 {
		slices.SortStableFunc(p.problems, manifest.Problem.Compare)
		return nil, p.problems
	}
	s.dir = filepath.Dir(path)
	return s, nil
}

// parser collects what is wrong.
type parser struct {
	document *manifest.Document
	problems []manifest.Problem
}

func (p *parser) fail(path, format string, args ...any) {
	p.problems = append(p.problems, p.document.Problem(path, fmt.Sprintf(format, args...)))
}

// decode decodes a part of the document strictly. It is false when there is nothing to work
// with; unknown fields are no reason to overlook the rest.
func (p *parser) decode(path string, value, into any) bool {
	text, err := json.Marshal(value)
	if err != nil {
		p.fail(path, "%v", err)
		return false
	}
	strict, err := k8sjson.UnmarshalStrict(text, into)
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		p.fail(below(path, wrong.Field), "this can't be a %s", wrong.Value)
		return false
	}
	if err != nil {
		p.fail(path, "%v", err)
		return false
	}
	for _, err := range strict {
		if field, ok := errors.AsType[k8sjson.FieldError](err); ok {
			p.fail(below(path, field.FieldPath()), "unknown field")
			continue
		}
		p.fail(path, "%v", err)
	}
	return true
}

func below(path, field string) string {
	if path == "" || field == "" {
		return path + field
	}
	return path + "." + field
}

func (p *parser) suite() *Suite {
	object, ok := p.document.Value().(map[string]any)
	if !ok {
		p.fail("", "a suite is an object with policies and cases")
		return nil
	}
	// Cases are decoded one by one, so that a mistake is found in its case.
	cases, isList := object["cases"].([]any)
	rest := map[string]any{}
	for key, value := range object {
		if key != "cases" {
			rest[key] = value
		}
	}
	s := &Suite{}
	p.decode("", rest, s)
	if s.Policies == "" {
		p.fail("policies", "a suite names the folder of its policies")
	}
	if !isList || len(cases) == 0 {
		p.fail("cases", "a suite has a list of cases")
	}
	first := map[string]int{}
	for i, value := range cases {
		path := fmt.Sprintf("cases[%d]", i)
		c := Case{Line: p.document.Line(path)}
		if !p.decode(path, value, &c) {
			continue
		}
		p.check(path, &c)
		if line, twice := first[c.Name]; twice {
			p.fail(path+".name", "the case at line %d has the same name", line)
		}
		first[c.Name] = c.Line
		s.Cases = append(s.Cases, c)
	}
	return s
}

// check holds what the types do not say.
func (p *parser) check(path string, c *Case) {
	if c.Name == "" {
		p.fail(path, "a case has a name")
	}
	p.expectation(path+".expect", c.Expect)
	p.target(path, c)
	p.session(path, c)
	for i := range c.Owners {
		p.owner(fmt.Sprintf("%s.owners[%d].object", path, i), &c.Owners[i])
	}
	if c.Expect == Allowed && (c.By != nil || c.Codes != nil) {
		p.fail(path, "by and codes are for sessions that are refused")
	}
	if c.Expect == Refused && (c.Connections != nil || c.Variables != nil) {
		p.fail(path, "connections and variables are for sessions that are allowed")
	}
	for i := range c.Connections {
		p.connection(fmt.Sprintf("%s.connections[%d]", path, i), &c.Connections[i])
	}
	for name, expectation := range c.Variables {
		p.expectation(path+".variables."+name, expectation)
	}
}

func (p *parser) expectation(path string, e Expectation) {
	if e != Allowed && e != Refused {
		p.fail(path, "%q is neither %q nor %q", string(e), Allowed, Refused)
	}
}

func (p *parser) target(path string, c *Case) {
	if c.Target != "" {
		var err error
		if c.path, err = config.ParseTargetPath(c.Target); err != nil {
			p.fail(path+".target", "%v", err)
		}
	}
	if c.Namespace != "" && len(validation.IsDNS1123Label(c.Namespace)) > 0 {
		p.fail(path+".namespace", "%q can't be the name of a namespace", c.Namespace)
	}
	if c.Target != "" && c.path.Kind == config.Targetless && c.Labels != nil {
		p.fail(path+".labels", "a session without a target has no labels")
	}
	if c.Config == nil && c.Target == "" {
		p.fail(path, "a case has a target, or a config that names one")
	}
	if c.Config == nil && c.Namespace == "" {
		p.fail(path, "a case has a namespace, or a config that names one")
	}
}

func (p *parser) session(path string, c *Case) {
	if c.Config != nil && c.Features != nil {
		p.fail(path, "a case has either config or features")
	}
	if c.Profile != "" {
		if _, err := profile.ParseRef(c.Profile); err != nil && c.Config != nil {
			p.fail(path+".profile", "%v", err)
		}
	}
	if c.Features != nil {
		p.features(path+".features", c.Features)
	}
	var value any
	if c.Config == nil || json.Unmarshal(c.Config, &value) != nil {
		return
	}
	switch value := value.(type) {
	case string:
		c.file = value
	case map[string]any:
		c.inline = c.Config
	default:
		p.fail(path+".config", "this is the path of a configuration file, or a configuration")
	}
}

func (p *parser) owner(path string, o *Owner) {
	parsed, err := config.ParseTargetPath(o.Object)
	switch {
	case err != nil:
		p.fail(path, "%v", err)
	case parsed.Kind == config.Targetless, parsed.Kind == config.Label, parsed.Container != "":
		p.fail(path, "%q is no object, such as deployment/shop", o.Object)
	}
	o.path = parsed
}

func (p *parser) connection(path string, c *Connection) {
	var err error
	if c.addr, err = netip.ParseAddrPort(c.To); err != nil {
		p.fail(path+".to", "%q is no address and port, such as 10.0.0.1:443; names belong into names", c.To)
	}
	switch c.Protocol {
	case "":
		c.Protocol = grant.TCP
	case grant.TCP, grant.UDP:
	default:
		p.fail(path+".protocol", "%q is neither %q nor %q", c.Protocol, grant.TCP, grant.UDP)
	}
	p.expectation(path+".expect", c.Expect)
	if c.Expect == Allowed && c.By != nil {
		p.fail(path+".by", "by is for connections that are refused")
	}
}
