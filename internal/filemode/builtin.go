package filemode

import (
	"path"
	"strings"
)

// builtIn looks a path up in the lists that are built in. They say which files a program brings along: its libraries and interpreters, the
// machine's devices, the user's own. A credential of the laptop's user is nobody's: it would be used against the cluster's services.
func (r *Rules) builtIn(name string) Place {
	switch name {
	case "/etc/resolv.conf", "/etc/hosts":
		// Names are looked up in the target in another way. A resolver that had these files of the target's would put search domains behind
		// a name itself, or not ask at all: filters would not see the name as it was written, and what it stands for.
		return Local
	case "/etc/hostname":
		return ReadOnly
	}
	if under(name, "/etc/ssl/certs") {
		return ReadOnly
	}
	if r.mode == Overrides {
		return Local
	}
	if home := r.laptop.Home; home != "" && home != "/" && under(name, home) {
		for _, c := range credentials {
			if under(name, home+c) {
				return NotFound
			}
		}
		return Local
	}
	for _, dir := range r.local {
		if under(name, dir) {
			return Local
		}
	}
	if r.above[name] {
		return Local
	}
	return system(name)
}

// brought are the directories that the program brings along, and those above them: a program that looks at each part of its path, as
// node does, must find them all.
func (l Laptop) brought() (dirs []string, above map[string]bool) {
	above = make(map[string]bool)
	for _, dir := range append([]string{l.Home, l.Dir, l.Program}, l.Local...) {
		if dir = path.Clean(dir); dir[0] != '/' || dir == "/" {
			continue
		}
		dirs = append(dirs, dir)
		for up := path.Dir(dir); up != "/"; up = path.Dir(up) {
			above[up] = true
		}
	}
	return dirs, above
}

// credentials are below the home directory.
var credentials = []string{"/.aws", "/.config/gcloud", "/.azure", "/.kube", "/.config/doctl"}

// localDirs are directories of the system that are local with all that is below them.
var localDirs = map[string]bool{
	// Programs, their libraries and data.
	"/bin": true, "/sbin": true, "/lib": true, "/lib32": true, "/lib64": true, "/libx32": true, "/usr": true, "/opt": true,
	"/snap": true, "/nix": true, "/gnu": true, "/boot": true,
	// The kernel's.
	"/proc": true, "/sys": true, "/dev": true,
	// What lives as long as the machine runs, or less.
	"/tmp": true, "/var/tmp": true, "/run": true, "/var/run": true, "/var/lock": true, "/var/cache": true,
	"/media": true, "/home/linuxbrew": true,
}

// remoteDirs are exceptions to localDirs.
var remoteDirs = []string{"/run/secrets", "/var/run/secrets"}

// localEtc are files and directories below /etc that libraries and interpreters read, of the laptop's own programs: users and groups, the
// loader, locales, time zones, databases of names, configuration of languages. A name with * at its end stands for all that begin with it.
var localEtc = []string{
	"passwd", "group", "shadow", "gshadow", "subuid", "subgid", "nsswitch.conf", "login.defs", "pam.d", "pam.conf", "security", "shells", "sudo*", "selinux", "apparmor*",
	"ld.so*", "ld-musl*", "alternatives", "localtime", "timezone", "locale*", "default", "environment", "profile*", "bash*", "zsh*", "fish", "skel", "inputrc", "terminfo",
	"gai.conf", "host.conf", "services", "protocols", "ethers", "networks", "rpc", "mime.types", "magic*", "fonts", "dconf", "gtk*", "X11", "xdg",
	"os-release", "lsb-release", "debian_version", "redhat-release", "alpine-release", "machine-id", "mtab", "fstab", "papersize", "vim*", "nanorc", "emacs",
	"java*", ".java", "python*", "perl*", "php*", "ruby*", "node*", "npmrc", "gitconfig", "dotnet", "mono", "maven", "gradle", "R", "apt", "dpkg", "yum*", "dnf", "apk", "pki",
	"crypto-policies", "ca-certificates*", "gss", "krb5.conf*", "ssh", "docker", "containers", "systemd", "gdb", "debuginfod", "libnl*", "openal", "pulse", "vulkan", "OpenCL", "manpath.config",
}

// system is about directories of the system.
func system(name string) Place {
	for _, dir := range remoteDirs {
		if under(name, dir) {
			return 0
		}
	}
	if name == "/" {
		return 0
	}
	end := strings.IndexByte(name[1:], '/')
	first, second := name, name
	if end >= 0 {
		first = name[:end+1]
		if next := strings.IndexByte(name[end+2:], '/'); next >= 0 {
			second = name[:end+2+next]
		}
	}
	if localDirs[first] || localDirs[second] {
		return Local
	}
	if rest, ok := strings.CutPrefix(name, "/etc/"); ok {
		return etc(rest)
	}
	// Libraries wherever they are: the loader is the laptop's.
	if isLibrary(name) {
		return Local
	}
	return 0
}

func etc(rest string) Place {
	entry, _, _ := strings.Cut(rest, "/")
	for _, l := range localEtc {
		if prefix, any := strings.CutSuffix(l, "*"); entry == l || any && strings.HasPrefix(entry, prefix) {
			return Local
		}
	}
	// The configuration of OpenSSL is of the library that reads it; the rest of the directory is the target's.
	if rest == "ssl/openssl.cnf" || rest == "ssl/ct_log_list.cnf" {
		return Local
	}
	return 0
}

// isLibrary knows shared libraries by their names: lib.so, lib.so.6.
func isLibrary(name string) bool {
	base := name[strings.LastIndexByte(name, '/')+1:]
	i := strings.LastIndex(base, ".so")
	if i < 0 {
		return false
	}
	rest := base[i+3:]
	return rest == "" || rest[0] == '.' && strings.Trim(rest, ".0123456789") == ""
}

// under says whether name is dir or below it.
func under(name, dir string) bool {
	return strings.HasPrefix(name, dir) && (len(name) == len(dir) || name[len(dir)] == '/')
}
