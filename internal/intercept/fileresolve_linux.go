//go:build amd64 || arm64

package intercept

import (
	"context"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mirrord-go/mirrord/internal/targetfs"
)

// maxLinks is how many links path_resolution(7) follows.
const maxLinks = 40

// resolution says how a name of the target is resolved here.
type resolution struct {
	// root is where names, and absolute links, begin; nothing leads out of it.
	root string
	// beneath fails with EXDEV what would lead out of the root, noLinks with ELOOP what has a link.
	beneath, noLinks bool
	// keepLast leaves a link at the end of the name alone.
	keepLast bool
}

// resolve follows the links in a name of the target. Its last part need not be there.
func (f *FileServer) resolve(ctx context.Context, name string, r resolution) (string, error) {
	real, links := r.root, 0
	for rest := name; rest != ""; {
		var part string
		part, rest, _ = strings.Cut(rest, "/")
		switch part {
		case "", ".":
			continue
		case "..":
			if real != r.root {
				real = path.Dir(real)
			} else if r.beneath {
				return "", unix.EXDEV
			}
			continue
		}
		next := path.Join(real, part)
		link, err := f.Target.Readlink(ctx, next)
		switch errno := targetfs.Errno(err); {
		case errno == unix.EINVAL: // no link
			real = next
			continue
		case errno == unix.ENOENT && rest == "", err == nil && r.keepLast && rest == "":
			return next, nil
		case err != nil:
			return "", err
		}
		links++
		switch abs := strings.HasPrefix(link, "/"); {
		case r.noLinks, links > maxLinks:
			return "", unix.ELOOP
		case abs && r.beneath:
			return "", unix.EXDEV
		case abs:
			real = r.root
		}
		if rest != "" {
			link += "/" + rest
		}
		rest = link
	}
	return real, nil
}
