package httpfilter

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/mirrord-go/mirrord/internal/jsonpath"
	"github.com/mirrord-go/mirrord/internal/pattern"
)

// compileBody reads a condition on a body. A body that is not JSON, or does not come, does not
// match.
func compileBody(b Body, limits Limits) (condition, error) {
	query, err := jsonpath.Parse(b.Query)
	if err != nil {
		err = fmt.Errorf("body query: %w", err)
	}
	matches, merr := pattern.Compile(b.Matches, pattern.IgnoreCase)
	if merr != nil {
		merr = fmt.Errorf("body matches: %w", merr)
	}
	if err := errors.Join(err, merr); err != nil {
		return nil, err
	}
	return func(r *Request) (bool, error) {
		if r.Body == nil {
			return false, nil
		}
		body, ok := r.Body(limits.Body, limits.BodyTimeout)
		if !ok {
			return false, nil
		}
		doc, err := jsonpath.Decode(body)
		if err != nil {
			return false, nil //nolint:nilerr // no match
		}
		values, err := query.Select(doc)
		if err != nil {
			return false, fmt.Errorf("%w: %w", ErrSlow, err)
		}
		for _, v := range values {
			if ok, err := anyMatch(matches, []string{asText(v)}); ok || err != nil {
				return ok, err
			}
		}
		return false, nil
	}, nil
}

// asText is a string as it is, and any other value as JSON.
func asText(v any) string {
	if s, ok := v.(string); ok {
		return s
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v) // it was read as JSON
	return string(bytes.TrimSuffix(b.Bytes(), []byte("\n")))
}
