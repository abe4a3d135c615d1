package features

import (
	"fmt"

	sessions "github.com/mirrord-go/mirrord/api/sessions/v1alpha"
	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/httpfilter"
)

// fromHTTPFilter leaves out a filter that chooses nothing: it has no effect.
func fromHTTPFilter(f *config.HTTPFilter) *sessions.HTTPFilter {
	if f.Spec() == nil {
		return nil
	}
	out := &sessions.HTTPFilter{
		HTTPFilterRule: sessions.HTTPFilterRule{Header: f.Header, Path: f.Path, Method: f.Method, HeaderJQ: f.HeaderJQ},
		AllOf:          fromRules(f.AllOf), AnyOf: fromRules(f.AnyOf),
		Ports: convert[int32](f.Ports),
	}
	if f.Body != nil {
		out.Body = &sessions.HTTPBody{Query: f.Body.Query, Matches: f.Body.Matches}
	}
	return out
}

func fromRules(rules []config.HTTPRule) []sessions.HTTPFilterRule {
	if rules == nil {
		return nil
	}
	list := make([]sessions.HTTPFilterRule, len(rules))
	for i, r := range rules {
		if r.Body != "" {
			list[i].Body = &sessions.HTTPBody{Query: r.Query, Matches: r.Matches}
			continue
		}
		list[i] = sessions.HTTPFilterRule{Header: r.Header, Path: r.Path, Method: r.Method, HeaderJQ: r.Query}
	}
	return list
}

func toHTTPFilter(f *sessions.HTTPFilter) *config.HTTPFilter {
	if f == nil {
		return nil
	}
	out := &config.HTTPFilter{
		Header: f.Header, Path: f.Path, Method: f.Method, HeaderJQ: f.HeaderJQ,
		AllOf: toRules(f.AllOf), AnyOf: toRules(f.AnyOf), Ports: convert[uint16](f.Ports),
	}
	if f.Body != nil {
		out.Body = &config.HTTPRule{Body: jsonBody, Query: f.Body.Query, Matches: f.Body.Matches}
	}
	return out
}

// jsonBody is the only kind of bodies that a filter knows.
const jsonBody = "json"

func toRules(rules []sessions.HTTPFilterRule) []config.HTTPRule {
	if rules == nil {
		return nil
	}
	list := make([]config.HTTPRule, len(rules))
	for i, r := range rules {
		if r.Body != nil {
			list[i] = config.HTTPRule{Body: jsonBody, Query: r.Body.Query, Matches: r.Body.Matches}
			continue
		}
		list[i] = config.HTTPRule{Header: r.Header, Path: r.Path, Method: r.Method, Query: r.HeaderJQ}
	}
	return list
}

// checkHTTPFilter holds that exactly one part of the filter, and of each rule in it, is set, and
// that agents can read it.
func checkHTTPFilter(path string, f *sessions.HTTPFilter) []error {
	var problems []error
	fail := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	one := func(path string, n int) {
		if n != 1 {
			fail("%s: a filter has one condition, and this one has %d", path, n)
		}
	}
	parts := conditions(f.HTTPFilterRule)
	for _, list := range []struct {
		name  string
		rules []sessions.HTTPFilterRule
	}{{"allOf", f.AllOf}, {"anyOf", f.AnyOf}} {
		if list.rules != nil {
			parts++
		}
		if list.rules != nil && len(list.rules) == 0 {
			fail("%s.%s: it is empty", path, list.name)
		}
		for i, rule := range list.rules {
			one(fmt.Sprintf("%s.%s[%d]", path, list.name, i), conditions(rule))
		}
	}
	one(path, parts)
	if len(problems) == 0 {
		if _, err := httpfilter.Compile(*toHTTPFilter(f).Spec()); err != nil {
			fail("%s: %w", path, err)
		}
	}
	for i, port := range f.Ports {
		if port < 1 || port > 65535 {
			fail("%s.ports[%d]: %d is no port", path, i, port)
		}
	}
	return problems
}

// conditions counts what is set in a rule.
func conditions(r sessions.HTTPFilterRule) int {
	n := 0
	for _, condition := range []string{r.Header, r.Path, r.Method, r.HeaderJQ} {
		if condition != "" {
			n++
		}
	}
	if r.Body != nil {
		n++
	}
	return n
}
