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

// Brought are the files and directories of this machine that a command line, given in the directory dir, brings along, as absolute paths with
// symbolic links and without:
//
//   - a script or archive that its interpreter is to run, and the directory of it: an argument, or a part of one such as --import=FILE or a class
//     path, that names a file by a suffix of theirs
//   - what a relative name that leaves the working directory stands for, such as ../data: who types it means this machine
//
// Names of what is not there say nothing.
func Brought(args []string, dir string) (paths []string) {
	for _, arg := range args[min(1, len(args)):] {
		lists := []string{arg}
		if _, value, ok := strings.Cut(arg, "="); ok {
			lists = append(lists, value)
		}
		for _, list := range lists {
			for _, name := range filepath.SplitList(list) {
				paths = append(paths, brought(name, dir)...)
			}
		}
	}
	return paths
}

// brought is what Brought says about one name.
func brought(name, dir string) (paths []string) {
	if name == "" {
		return nil
	}
	path := filepath.Clean(name)
	leaves := path == ".." || strings.HasPrefix(path, "../")
	if !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil
	}
	script := info.Mode().IsRegular() && slices.Contains(scriptSuffixes, strings.ToLower(filepath.Ext(path)))
	if !script && !leaves {
		return nil
	}
	files := []string{path}
	if real, err := filepath.EvalSymlinks(path); err == nil && real != path {
		files = append(files, real)
	}
	for _, file := range files {
		paths = append(paths, file)
		if script {
			paths = append(paths, filepath.Dir(file))
		}
	}
	return paths
}

// Prefix is the directory in which a program was installed together with libraries, given that of the program: /srv/python for /srv/python/bin when
// there is a /srv/python/lib. It is empty when there is none.
func Prefix(dir string) string {
	prefix := filepath.Dir(dir)
	if base := filepath.Base(dir); base != "bin" && base != "sbin" || prefix == "/" {
		return ""
	}
	for _, lib := range []string{"lib", "lib64", "libexec"} {
		if info, err := os.Stat(filepath.Join(prefix, lib)); err == nil && info.IsDir() {
			return prefix
		}
	}
	return ""
}
