package program

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// scriptSuffixes are of files that interpreters and virtual machines run.
var scriptSuffixes = []string{
	".py", ".pyc", ".pyz", ".js", ".mjs", ".cjs", ".ts", ".mts", ".cts", ".tsx", ".jar", ".war", ".class", ".dll", ".rb", ".pl", ".php", ".phar",
	".lua", ".sh", ".bash", ".tcl", ".r", ".jl", ".exs", ".beam", ".groovy", ".kts",
}

// Scripts are the files of this machine that a command line has its interpreter run, as absolute paths with symbolic links and without:
// arguments, and parts of lists such as a class path, that name a file by a suffix of theirs. Relative names are none: they are below the working
// directory.
func Scripts(args []string) (paths []string) {
	for _, arg := range args[min(1, len(args)):] {
		for _, name := range filepath.SplitList(arg) {
			if !filepath.IsAbs(name) || !slices.Contains(scriptSuffixes, strings.ToLower(filepath.Ext(name))) {
				continue
			}
			if info, err := os.Stat(name); err != nil || !info.Mode().IsRegular() {
				continue
			}
			paths = append(paths, filepath.Clean(name))
			if real, err := filepath.EvalSymlinks(name); err == nil && real != filepath.Clean(name) {
				paths = append(paths, real)
			}
		}
	}
	return paths
}
