package httpfilter

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"iter"

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
		whole := true
		ok, err = anyMatch(matches, texts(values, max(len(body), minTexts)*4, &whole))
		if !whole {
			err = fmt.Errorf("%w: the query selects the same again and again", ErrSlow)
		}
		return ok, err
	}, nil
}

// minTexts is a body for which the texts of a query are not many.
const minTexts = 64 << 10

// texts are those of values, up to a limit in bytes: a query can select the whole body a thousand times. Whole is made
// false when it ends them.
func texts(values []any, limit int, whole *bool) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, v := range values {
			if limit < 0 {
				*whole = false
				return
			}
			s := asText(v)
			if limit -= len(s); !yield(s) {
				return
			}
		}
	}
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
