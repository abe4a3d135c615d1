package config

// httpFilterSchema are the fields of feature.network.incoming.http_filter.
func httpFilterSchema() []Field {
	text := func(p func(*HTTPFilter) *string) binding {
		return atHTTPFilter(func(f *HTTPFilter) binding { return atText(func(*Config) *string { return p(f) }) })
	}
	rules := func(p func(*HTTPFilter) *[]HTTPRule) binding {
		return atHTTPFilter(func(f *HTTPFilter) binding { return atList(func(*Config) *[]HTTPRule { return p(f) }) })
	}
	return []Field{
		{
			Path: "header_filter", kind: kindText, Env: []string{"MIRRORD_HTTP_HEADER_FILTER"},
			form:  `it is a pattern for lines "Name: value", such as "^x-user: anna$"; a jq program is header_filter_jq`,
			check: checkHTTPText(func(s string) HTTPRule { return HTTPRule{Header: s} }),
			bind:  text(func(f *HTTPFilter) *string { return &f.Header }),
			Doc:   "Take only requests with a header whose line `Name: value` matches this regular expression, in any case. Look-around is understood.",
		},
		{
			Path: "path_filter", kind: kindText, Env: []string{"MIRRORD_HTTP_PATH_FILTER"},
			check: checkHTTPText(func(s string) HTTPRule { return HTTPRule{Path: s} }),
			bind:  text(func(f *HTTPFilter) *string { return &f.Path }),
			Doc:   "Take only requests whose path, or path with its query, matches this regular expression, in any case.",
		},
		{
			Path: "method_filter", kind: kindText, Env: []string{"MIRRORD_HTTP_METHOD_FILTER"}, form: severalMethods,
			check: checkHTTPText(func(s string) HTTPRule { return HTTPRule{Method: s} }),
			bind:  text(func(f *HTTPFilter) *string { return &f.Method }), Doc: "Take only requests with this method, in any case.",
		},
		{
			Path: "body_filter", kind: kindHTTPBody, form: "write " + bodyForm,
			bind: atHTTPFilter(func(f *HTTPFilter) binding { return atOptional(func(*Config) **HTTPRule { return &f.Body }) }),
			Doc:  "Take only requests with a JSON body in which the query, a JSONPath (RFC 9535), finds a value that the regular expression matches: `" + bodyForm + "`.",
		},
		{
			Path: "header_filter_jq", kind: kindText, Env: []string{"MIRRORD_HTTP_HEADER_FILTER_JQ"},
			check: checkHTTPText(func(s string) HTTPRule { return HTTPRule{Query: s} }),
			bind:  text(func(f *HTTPFilter) *string { return &f.HeaderJQ }),
			Doc:   "Take only requests with a header for whose line, a string, this jq program yields true.",
		},
		{
			Path: "all_of", kind: kindHTTPRules, check: checkRuleCount, form: "write [" + ruleForm + "]",
			bind: rules(func(f *HTTPFilter) *[]HTTPRule { return &f.AllOf }),
			Doc:  "Take only requests that all of these match: each is an object with header, path, method, query (a jq program), or body, query and matches.",
		},
		{
			Path: "any_of", kind: kindHTTPRules, check: checkRuleCount, form: "write [" + ruleForm + "]",
			bind: rules(func(f *HTTPFilter) *[]HTTPRule { return &f.AnyOf }),
			Doc:  "Take only requests that one of these matches.",
		},
		{
			Path: "ports", kind: kindPort, Env: []string{"MIRRORD_HTTP_FILTER_PORTS"}, check: checkFilterPorts, DefaultText: "every port",
			bind: atHTTPFilter(func(f *HTTPFilter) binding { return atList(func(*Config) *[]uint16 { return &f.Ports }) }),
			Doc:  "The ports of the target that the filter is for. The others are taken whole, unless feature.network.incoming.ports leaves them out.",
		},
	}
}
