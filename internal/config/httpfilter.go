package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/mirrord-go/mirrord/internal/config/tree"
	"github.com/mirrord-go/mirrord/internal/httpfilter"
)

// HTTPFilter chooses HTTP requests of the target's incoming connections. At most one of its
// parts but Ports is set.
type HTTPFilter struct {
	// Header and Path are regular expressions, Method is a method, without regard to case.
	Header string `json:"header_filter,omitempty"`
	Path   string `json:"path_filter,omitempty"`
	Method string `json:"method_filter,omitempty"`
	// Body is a rule whose Body is set.
	Body *HTTPRule `json:"body_filter,omitempty"`
	// HeaderJQ is a jq program that is run over each header line.
	HeaderJQ string `json:"header_filter_jq,omitempty"`
	// AllOf and AnyOf combine rules.
	AllOf []HTTPRule `json:"all_of,omitempty"`
	AnyOf []HTTPRule `json:"any_of,omitempty"`
	// Ports are those of the target that the filter is for; the others are taken whole. None
	// means all.
	Ports []uint16 `json:"ports,omitempty"`
}

// HTTPRule is one condition on a request, as all_of and any_of have it: a header, a path, a
// method, a query alone, which is a jq program over header lines, or a body with a query,
// which is a JSONPath, and a pattern for what that finds.
type HTTPRule struct {
	Header  string `json:"header,omitempty"`
	Path    string `json:"path,omitempty"`
	Method  string `json:"method,omitempty"`
	Body    string `json:"body,omitempty"` // "json" or empty
	Query   string `json:"query,omitempty"`
	Matches string `json:"matches,omitempty"`
}

// Chooses reports whether there is a filter for a port of the target; a nil filter is for
// none.
func (f *HTTPFilter) Chooses(port uint16) bool {
	return f.chooses() && (len(f.Ports) == 0 || slices.Contains(f.Ports, port))
}

// chooses reports whether there is more than ports.
func (f *HTTPFilter) chooses() bool {
	return f != nil && (f.Header != "" || f.Path != "" || f.Method != "" || f.Body != nil || f.HeaderJQ != "" || f.AllOf != nil || f.AnyOf != nil)
}

// Spec is the filter as agents know it. It is nil when nothing is chosen.
func (f *HTTPFilter) Spec() *httpfilter.Spec {
	if !f.chooses() {
		return nil
	}
	s := &httpfilter.Spec{
		Rule:  httpfilter.Rule{Header: f.Header, Path: f.Path, Method: f.Method, JQ: f.HeaderJQ},
		AllOf: specs(f.AllOf), AnyOf: specs(f.AnyOf),
	}
	if f.Body != nil {
		s.Rule = f.Body.spec()
	}
	return s
}

func specs(rules []HTTPRule) []httpfilter.Rule {
	if rules == nil {
		return nil
	}
	list := make([]httpfilter.Rule, len(rules))
	for i, r := range rules {
		list[i] = r.spec()
	}
	return list
}

func (r HTTPRule) spec() httpfilter.Rule {
	if r.Body != "" {
		return httpfilter.Rule{Body: &httpfilter.Body{Query: r.Query, Matches: r.Matches}}
	}
	return httpfilter.Rule{Header: r.Header, Path: r.Path, Method: r.Method, JQ: r.Query}
}

// String is the filter in a line, for people.
func (f *HTTPFilter) String() string {
	switch {
	case !f.chooses():
		return "no filter"
	case f.AllOf != nil:
		return joinRules(f.AllOf, " and ")
	case f.AnyOf != nil:
		return joinRules(f.AnyOf, " or ")
	case f.Body != nil:
		return f.Body.String()
	}
	return HTTPRule{Header: f.Header, Path: f.Path, Method: f.Method, Query: f.HeaderJQ}.String()
}

func joinRules(rules []HTTPRule, with string) string {
	texts := make([]string, len(rules))
	for i, r := range rules {
		texts[i] = r.String()
	}
	return strings.Join(texts, with)
}

// String is the rule in a few words.
func (r HTTPRule) String() string {
	switch {
	case r.Header != "":
		return "header " + r.Header
	case r.Path != "":
		return "path " + r.Path
	case r.Method != "":
		return "method " + r.Method
	case r.Body != "":
		return fmt.Sprintf("body %s is %s", r.Query, r.Matches)
	}
	return "headers by jq " + r.Query
}

// httpFilterPath is where the filter stands in a configuration.
const httpFilterPath = "feature.network.incoming.http_filter"

// httpFilterFields are the filters, of which there can be one.
func httpFilterFields() []string {
	return []string{"header_filter", "path_filter", "method_filter", "body_filter", "header_filter_jq", "all_of", "any_of"}
}

// The keys of a rule in all_of and any_of, and of a body filter.
var (
	ruleKeys = []string{"header", "path", "method", "query", "body", "matches"}
	bodyKeys = []string{"body", "query", "matches"}
)

const (
	bodyForm = `{"body": "json", "query": "$.user", "matches": "^anna$"}`
	ruleForm = `{"header": "^x-user: anna$"}, {"path": "^/api/"}, {"method": "GET"}, {"query": JQ}, or ` + bodyForm
)

// httpRule reads the texts of a rule, and where they stand: element is the name of the rule
// in the value of its field.
func (d *decoder) httpRule(f *Field, n *tree.Node, element string, l *leaf) (HTTPRule, bool) {
	var r HTTPRule
	known, form := ruleKeys, ruleForm
	if element == "" {
		known, form = bodyKeys, bodyForm
	}
	if n.Kind != tree.Object {
		d.fail(f.Path+element, n.Offset, "must be an object, not "+n.Kind.String(), "write "+form)
		return r, false
	}
	good := true
	for _, m := range n.Members {
		to := map[string]*string{
			"header": &r.Header, "path": &r.Path, "method": &r.Method,
			"body": &r.Body, "query": &r.Query, "matches": &r.Matches,
		}[m.Key]
		switch {
		case to == nil || !slices.Contains(known, m.Key):
			d.fail("", m.Offset, fmt.Sprintf("%s has no filter %q", f.Path+element, m.Key), didYouMean(m.Key, known))
			good = false
		case m.Value.Kind == tree.Null: // not given
		case m.Value.Kind != tree.String:
			d.wrongType(f.Path+element+"."+m.Key, m.Value, "a string")
			good = false
		case m.Value.Text == "":
			d.fail(f.Path+element+"."+m.Key, m.Value.Offset, "is empty", "remove it, or give it a value")
			good = false
		default:
			*to = m.Value.Text
			l.elements[element+"."+m.Key] = d.place(m.Value.Offset)
		}
	}
	l.elements[element] = d.place(n.Offset)
	if !good {
		return r, false
	}
	if bad := r.check(element == ""); bad != nil {
		at := element
		if bad.key != "" {
			at += "." + bad.key
		}
		d.problem(Problem{Path: f.Path + at, Origin: l.elements[at], Message: bad.message, Suggestion: bad.suggestion})
		return r, false
	}
	return r, true
}

// httpRules reads all_of or any_of.
func (d *decoder) httpRules(f *Field, n *tree.Node, l *leaf) []HTTPRule {
	rules := make([]HTTPRule, 0, len(n.Items))
	for i, item := range n.Items {
		if r, good := d.httpRule(f, item, fmt.Sprintf("[%d]", i), l); good {
			rules = append(rules, r)
		}
	}
	return rules
}

// fault is a mistake in a rule and the key that has it; "" is the rule itself.
type fault struct{ key, message, suggestion string }

// check looks for what is wrong with a rule, which may have to be about the body.
func (r HTTPRule) check(body bool) *fault {
	var given []string
	for _, part := range []struct{ key, text string }{
		{"header", r.Header}, {"path", r.Path}, {"method", r.Method}, {"query", r.Query}, {"body", r.Body},
	} {
		if part.text != "" && (part.key != "query" || r.Body == "") {
			given = append(given, part.key)
		}
	}
	switch {
	case body && r.Body == "":
		return &fault{"", `"body" is missing`, "write " + bodyForm}
	case len(given) == 0 && r.Matches == "":
		return &fault{"", "says nothing of the requests that it is for", "write " + ruleForm}
	case len(given) > 1:
		return &fault{"", "must have exactly one of header, path, method, query and body, and has " + strings.Join(given, " and "), "make several filters of it, in all_of"}
	case r.Body == "" && r.Matches != "":
		return &fault{"matches", "is a part of a filter for bodies", "write " + bodyForm}
	case r.Body != "" && r.Body != "json":
		return &fault{"body", fmt.Sprintf("must be \"json\", not %q", r.Body), "write " + bodyForm}
	case r.Body != "" && (r.Query == "" || r.Matches == ""):
		return &fault{"", "a filter for bodies has a query and matches", "write " + bodyForm}
	case r.Method != "" && strings.ContainsAny(r.Method, " ,;|^$.*()[]"):
		return &fault{"method", fmt.Sprintf("%q is no method", r.Method), severalMethods}
	}
	if err := compile(r.spec()); err != nil {
		return r.locate(err)
	}
	return nil
}

const severalMethods = `name one; for several write "any_of": [{"method": "GET"}, {"method": "POST"}]`

// compile asks the package that matches requests.
func compile(r httpfilter.Rule) error {
	_, err := httpfilter.Compile(httpfilter.Spec{Rule: r})
	return err
}

// locate finds the key whose text does not compile.
func (r HTTPRule) locate(err error) *fault {
	message := err.Error()
	switch {
	case r.Header != "":
		return &fault{"header", strings.TrimPrefix(message, "header: "), `it is for lines "Name: value", such as "^x-user: anna$"`}
	case r.Path != "":
		return &fault{"path", strings.TrimPrefix(message, "path: "), `write it as "^/api/", for example`}
	case r.Body != "":
		if compile(HTTPRule{Body: "json", Query: "$", Matches: r.Matches}.spec()) != nil {
			return &fault{"matches", bodyMistake(message), `write it as "^anna$", for example`}
		}
		return &fault{"query", bodyMistake(message), `it is a JSONPath (RFC 9535), such as "$.user.name"`}
	}
	return &fault{"query", strings.TrimPrefix(message, "jq: "), `it is a jq program over lines "Name: value", such as 'test("^x-user: anna$"; "i")'`}
}

// bodyMistake drops what names the part again.
func bodyMistake(message string) string {
	for _, prefix := range []string{"body: ", "query: ", "matches: "} {
		message = strings.TrimPrefix(message, prefix)
	}
	return message
}

// checkHTTPText is the check of a filter that is a text: of makes a rule of it.
func checkHTTPText(of func(text string) HTTPRule) func(*checker) {
	return func(c *checker) {
		text, _ := c.value.(string)
		if text == "" {
			c.fail("", "the filter is empty", "remove it, or say which requests it is for")
			return
		}
		if bad := of(text).check(false); bad != nil {
			c.fail("", bad.message, bad.suggestion)
		}
	}
}

// checkRuleCount looks at the length of all_of and any_of.
func checkRuleCount(c *checker) {
	rules, _ := c.value.([]HTTPRule)
	switch {
	case len(rules) == 0:
		c.fail("", "the list is empty", `remove it, or write [{"header": "^x-user: anna$"}], for example`)
	case len(rules) > httpfilter.MaxRules:
		c.fail("", fmt.Sprintf("has %d filters; %d are the most", len(rules), httpfilter.MaxRules), "")
	}
}

func checkFilterPorts(c *checker) {
	if ports, _ := c.value.([]uint16); len(ports) == 0 {
		c.fail("", "the list is empty: the filter would be for no port, and all requests would be taken", "remove it, and the filter is for every port")
	}
}

// httpFilter looks at the parts of the filter together.
func (v *verifier) httpFilter() {
	f := v.c.Feature.Network.Incoming.HTTPFilter
	if f == nil {
		return
	}
	var given []string
	for _, name := range httpFilterFields() {
		if v.value(schema().byPath[httpFilterPath+"."+name]) != nil {
			given = append(given, name)
		}
	}
	if len(given) > 1 {
		v.fail(httpFilterPath+"."+given[1], "there can be one filter, and there are "+strings.Join(given, ", "), "combine them in all_of or any_of")
	}
	if incoming := &v.c.Feature.Network.Incoming; len(f.Ports) > 0 && incoming.Mode != IncomingOff && !v.beforeProfile {
		v.httpFilterPorts(incoming)
	}
}

// httpFilterPorts warns of what a filter for some ports does to the others.
func (v *verifier) httpFilterPorts(incoming *Incoming) {
	const path = httpFilterPath + ".ports"
	f := incoming.HTTPFilter
	if !f.chooses() {
		v.warn(path, "has no effect: there is no filter that it could be for", "")
		return
	}
	if incoming.Ports == nil {
		taken := map[IncomingMode]string{IncomingSteal: "stolen", IncomingMirror: "mirrored"}[incoming.Mode]
		v.warn(path, fmt.Sprintf("the process's other ports are %s whole, without the filter", taken),
			fmt.Sprintf(`to take nothing else, add "ports": %s to feature.network.incoming`, jsonPorts(f.Ports)))
		return
	}
	for i, port := range f.Ports {
		if !slices.Contains(incoming.Ports, port) {
			v.warn(fmt.Sprintf("%s[%d]", path, i), fmt.Sprintf("port %d is not taken at all: feature.network.incoming.ports does not have it", port), "")
		}
	}
}

func jsonPorts(ports []uint16) string {
	return strings.ReplaceAll(fmt.Sprint(ports), " ", ", ")
}

// atHTTPFilter binds one part of the filter, which comes to be with it.
func atHTTPFilter(part func(*HTTPFilter) binding) binding {
	filter := func(c *Config) **HTTPFilter { return &c.Feature.Network.Incoming.HTTPFilter }
	return binding{
		get: func(c *Config) any {
			if f := *filter(c); f != nil {
				return part(f).get(c)
			}
			return nil
		},
		set: func(c *Config, v any) {
			if f := filter(c); *f == nil {
				*f = &HTTPFilter{}
			}
			part(*filter(c)).set(c, v)
		},
	}
}
