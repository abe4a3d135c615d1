package kube

import (
	"fmt"
	"slices"
	"strings"

	"github.com/mirrord-go/mirrord/internal/profile"
)

// nearest returns those of have that someone who wrote want may have meant, quoted.
func nearest(want string, have []string) []string {
	refs := make([]profile.Ref, len(have))
	for i, name := range have {
		refs[i] = profile.Ref{Name: name}
	}
	var near []string
	for _, ref := range profile.Near(profile.Ref{Name: want}, refs) {
		near = append(near, fmt.Sprintf("%q", ref.Name))
	}
	return near
}

// enumerate lists the names in order, at most limit of them.
func enumerate(names []string, limit int) string {
	names = slices.Sorted(slices.Values(names))
	rest := len(names) - limit
	if rest > 0 {
		names = names[:limit]
	}
	s := strings.Join(names, ", ")
	if rest > 0 {
		s += fmt.Sprintf(" and %d more", rest)
	}
	return s
}
