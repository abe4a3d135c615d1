//go:build amd64 || arm64

package intercept

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mirrord-go/mirrord/internal/filemode"
	"github.com/mirrord-go/mirrord/internal/fsmount"
	"github.com/mirrord-go/mirrord/internal/targetfs"
	"github.com/mirrord-go/mirrord/internal/targetfs/dirfs"
)

// targetFiles are the files of a target whose root is a folder. Its /app and /etc/app are what the tests are about.
type targetFiles struct {
	root   string
	fs     *dirfs.FS
	server *FileServer
}

// prefixes are where programs of this machine are installed with what belongs to them, wherever that is.
func prefixes() (dirs []string) {
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		dirs = append(dirs, filepath.Dir(dir))
	}
	return dirs
}

// serveFiles makes a target with some files.
func serveFiles(t *testing.T, mode filemode.Settings) *targetFiles {
	t.Helper()
	return serveFilesOf(t, mode, func(fs targetfs.FS) targetfs.FS { return fs })
}

func serveFilesOf(t *testing.T, mode filemode.Settings, wrap func(targetfs.FS) targetfs.FS) *targetFiles {
	t.Helper()
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip(err)
	}
	root := t.TempDir()
	f := &targetFiles{root: root, fs: &dirfs.FS{Root: root}}
	for path, content := range map[string]string{
		"/app/hello": "from the target\n", "/app/sub/one": "1", "/app/sub/two": "22", "/app/data.json": `{"where": "target"}`,
		"/app/mod.py": "where = 'target'\n", "/app/mod.js": "module.exports = 'target';\n", "/etc/app/x.conf": "x",
	} {
		f.put(t, path, content)
	}
	if err := os.Symlink("hello", filepath.Join(root, "app", "link")); err != nil {
		t.Fatal(err)
	}
	rules, err := filemode.Compile(mode, nil, filemode.Laptop{Home: os.Getenv("HOME"), Dir: testdata(""), Local: prefixes()})
	if err != nil {
		t.Fatal(err)
	}
	f.server, err = ServeFiles(t.Context(), slog.New(slog.NewTextHandler(t.Output(), nil)), Files{
		Rules: rules, Target: wrap(f.fs), Holder: []string{os.Args[0], fsmount.Command}, Notice: func(text string) { t.Log(text) },
	})
	if err != nil {
		if os.Geteuid() != 0 {
			t.Skip("not allowed here: ", err)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = f.server.Close()
		if n := f.fs.Left.Load(); n != 0 {
			t.Errorf("%d files are open at the target", n)
		}
	})
	return f
}

func (f *targetFiles) put(t *testing.T, path, content string) {
	t.Helper()
	name := filepath.Join(f.root, path)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (f *targetFiles) get(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(f.root, path))
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// run runs a program with the files.
func (f *targetFiles) run(t *testing.T, argv ...string) (int, string) {
	t.Helper()
	return launch(t, &fakeTarget{}, func(o *Options, _ *times) {
		o.Files = f.server
		o.Env = slices.DeleteFunc(o.Env, func(v string) bool { return strings.HasPrefix(v, "NODE_EXTRA_CA_CERTS=") })
	}, argv...).exit()
}

func TestFilesOfPrograms(t *testing.T) {
	f := serveFiles(t, filemode.Settings{Mode: filemode.Read})
	inode := func(path string) string {
		a, err := f.fs.Stat(t.Context(), path, true)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(f.server.mount.Ino(a))
	}
	tests := []struct {
		name string
		argv []string
		want string // of the output
	}{
		{"cat", []string{"cat", "/app/hello"}, "from the target\n"},
		{"link", []string{"cat", "/app/link"}, "from the target\n"},
		{"missing", []string{"sh", "-c", "cat /app/none 2>&1"}, "cat: /app/none: No such file or directory\n"},
		{"local", []string{"sh", "-c", "test -x /bin/sh && echo yes"}, "yes\n"},
		{"ls", []string{"ls", "/app/sub"}, "one\ntwo\n"},
		{"ls -i", []string{"sh", "-c", "ls -i /app/sub/two; ls -i /app/sub"}, fmt.Sprintf("%s /app/sub/two\n%s one\n%s two\n", inode("/app/sub/two"), inode("/app/sub/one"), inode("/app/sub/two"))},
		{"ls -l", []string{"sh", "-c", "ls -l /app/link | grep -o 'app/link -> hello'"}, "app/link -> hello\n"},
		{"find", []string{"sh", "-c", "find /app -type f | sort"}, "/app/data.json\n/app/hello\n/app/mod.js\n/app/mod.py\n/app/sub/one\n/app/sub/two\n"},
		{"stat", []string{"stat", "-c", "%s %F", "/app/hello"}, "16 regular file\n"},
		{"test", []string{"sh", "-c", "test -r /app/hello && test ! -e /app/no && test -d /app/sub && test ! -d /app/hello && echo yes"}, "yes\n"},
		{"readlink", []string{"readlink", "/app/link"}, "hello\n"},
		{"realpath", []string{"realpath", "/app/sub/../link"}, "/app/hello\n"},
		{"cp", []string{"sh", "-c", "d=$(mktemp -d) && cp -r /app/sub $d/ && cat $d/sub/one $d/sub/two; rm -r $d"}, "122"},
		{"grep", []string{"grep", "-rl", "target", "/app"}, ""},
		{"written on the laptop", []string{"sh", "-c", "echo x > /app/new"}, ""},
		{"dd", []string{"sh", "-c", "dd if=/app/hello bs=4 skip=1 count=1 2>/dev/null"}, " the"},
		{"a shell's own", []string{"sh", "-c", ". /app/hello 2>/dev/null; read line < /app/hello; echo $line"}, "from the target\n"},
		{"tar", []string{"sh", "-c", "tar -C / -cf - app/sub | tar -tf - | sort"}, "app/sub/\napp/sub/one\napp/sub/two\n"},
		{"fd of proc", []string{"sh", "-c", "exec 3</app/hello; readlink /proc/$$/fd/3; cat /proc/$$/fd/3"}, "/app/hello\nfrom the target\n"},
		{
			"python",
			[]string{"python3", "-c", "import os, sys, json, mmap; sys.path.insert(0, '/app'); import mod; d = os.open('/app/sub', os.O_RDONLY); " +
				"print(mod.where, json.load(open('/app/data.json'))['where'], sorted(os.listdir('/app/sub')), os.stat('one', dir_fd=d).st_size, " +
				"open('two', opener=lambda n, f: os.open(n, f, dir_fd=d)).read(), mmap.mmap(os.open('/app/hello', 0), 0, prot=1)[:4], os.path.samefile('/app/link', '/app/hello'), " +
				"os.fstat(os.open('/app/hello', 0)) == os.stat('/app/hello'), [e.name for e in os.scandir('/app') if e.is_symlink()]); os.fchdir(d); print(open('one').read(), os.listdir('.') == os.listdir(d))"},
			"target target ['one', 'two'] 1 22 b'from' True True ['link']\n1 True\n",
		},
		{
			"descriptors of paths",
			[]string{"python3", "-c", "import os, errno; d = os.open('/app/sub', os.O_PATH); print(open('two', opener=lambda n, f: os.open(n, f, dir_fd=d)).read(), os.fstat(d).st_ino == os.stat('/app/sub').st_ino)\n" +
				"f = os.open('/app/hello', os.O_PATH); print(os.fstat(f).st_size, open(f'/proc/self/fd/{f}').read(), end='')\n" +
				"try: os.open('/app/link', os.O_PATH | os.O_NOFOLLOW)\nexcept OSError as e: print(errno.errorcode[e.errno])"},
			"22 True\n16 from the target\nELOOP\n",
		},
		{
			"node",
			[]string{"node", "-e", "const fs = require('fs'); console.log(require('/app/mod.js'), fs.readFileSync('/app/hello', 'utf8').trim(), fs.readdirSync('/app/sub'), fs.statSync('/app/sub/two').size, fs.realpathSync('/app/link'))"},
			"target from the target [ 'one', 'two' ] 2 /app/hello\n",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			code, out := f.run(t, tt.argv...)
			if tt.want == "" {
				t.Logf("code %d: %s", code, out)
				return
			}
			if out != tt.want {
				t.Errorf("code %d, output\n%s, want\n%s", code, out, tt.want)
			}
		})
	}
	if _, err := os.Stat(filepath.Join(f.root, "app", "new")); err == nil {
		t.Error("the target was written in mode read")
	}
}

func TestFilesWritten(t *testing.T) {
	f := serveFiles(t, filemode.Settings{Mode: filemode.Write})
	script := `set -e
cd /
echo new > /app/new; echo more >> /app/new; mv /app/new /app/moved; mkdir /app/a /app/a/b /app/a/b/c; cp /app/moved /app/a/b/c/copy
ln -s copy /app/a/b/c/soft; ln /app/moved /app/hard; rm /app/sub/one; rmdir /app/a/none 2>/dev/null || true; chmod 600 /app/hard; touch -d @1000 /app/hard
truncate -s 3 /app/sub/two; d=$(mktemp -d); mv /app/data.json $d/; cat $d/data.json; echo; mv $d/data.json /app/back; rm -r $d
cd app; echo relative > rel; sed -i s/x/y/ /etc/app/x.conf; stat -c '%a %Y %h' /app/hard; dd if=/dev/zero of=/app/zero bs=64k count=32 conv=fsync 2>/dev/null
(umask 077; : > /app/private); rm -r /app/a; ls /app/a 2>&1 || true
`
	// The shell's directory has to be on the laptop too.
	script = strings.ReplaceAll(script, "cd app; echo relative > rel;", "echo relative > app/rel;")
	code, out := f.run(t, "sh", "-c", script)
	want := "{\"where\": \"target\"}\n600 1000 2\nls: cannot access '/app/a': No such file or directory\n"
	if code != 0 || out != want {
		t.Errorf("code %d, output\n%s, want\n%s", code, out, want)
	}
	for path, want := range map[string]string{
		"/app/moved": "new\nmore\n", "/app/rel": "relative\n", "/etc/app/x.conf": "y", "/app/back": `{"where": "target"}`, "/app/zero": strings.Repeat("\x00", 32*64<<10),
	} {
		if got := f.get(t, path); got != want {
			t.Errorf("%s has %.60q", path, got)
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(f.root, "app/private"), &st); err != nil || st.Mode&0o777 != 0o600 {
		t.Errorf("mode %o, %v: the umask is lost", st.Mode, err)
	}
	if _, err := os.Stat(filepath.Join(f.root, "app/sub/one")); err == nil {
		t.Error("a removed file is there")
	}
}
