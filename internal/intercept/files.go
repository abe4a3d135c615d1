package intercept

import (
	"github.com/mirrord-go/mirrord/internal/filemode"
	"github.com/mirrord-go/mirrord/internal/targetfs"
)

// Files says how calls of the child about files are served, by path.
type Files struct {
	// Rules decide where a file is.
	Rules *filemode.Rules
	// Target has the files that are not the laptop's.
	Target targetfs.FS
	// Holder is the command line that runs fsmount.Holder: this executable and fsmount.Command.
	Holder []string
	// Notice tells the user something that may be said once; nil drops it.
	Notice func(text string)
}
