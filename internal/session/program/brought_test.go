package program_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mirrord-go/mirrord/internal/session/program"
)

func TestBrought(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, folder := range []string{"folder.js", "work/lib", "data", "real"} {
		if err := os.MkdirAll(at(folder), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"serve.py", "Serve.JS", "a.jar", "b.jar", "settings.yaml", "words", "real/main.py", "work/main.py", "work/lib/hook.mjs"} {
		if err := os.WriteFile(at(name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("real/main.py", at("link.py")); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		args, want []string
	}{
		"none":                   {nil, nil},
		"a program alone":        {[]string{at("serve.py")}, nil},
		"a script":               {[]string{"python3", "-u", at("serve.py"), "--port", "80"}, []string{at("serve.py"), dir}},
		"in other letters":       {[]string{"node", at("Serve.JS")}, []string{at("Serve.JS"), dir}},
		"a link":                 {[]string{"python3", at("link.py")}, []string{at("link.py"), dir, at("real/main.py"), at("real")}},
		"a class path":           {[]string{"java", "-cp", at("a.jar") + ":" + at("b.jar") + ":/nowhere/c.jar", "Main"}, []string{at("a.jar"), dir, at("b.jar"), dir}},
		"not clean":              {[]string{"python3", dir + "//./serve.py"}, []string{at("serve.py"), dir}},
		"what a target may have": {[]string{"server", "--config", at("settings.yaml"), "--words=" + at("words"), at("data")}, nil},
		"a folder":               {[]string{"node", at("folder.js")}, nil},
		"what is not here":       {[]string{"python3", "/nowhere/serve.py", "../nowhere.py", "../nowhere", ""}, nil},
		"in the working directory": {
			[]string{"python3", "main.py"},
			[]string{at("work/main.py"), at("work")},
		},
		"a value": {
			[]string{"node", "--import=./lib/hook.mjs", "x"},
			[]string{at("work/lib/hook.mjs"), at("work/lib")},
		},
		"beside the working directory": {
			[]string{"python3", "../real/main.py"},
			[]string{at("real/main.py"), at("real")},
		},
		"data beside the working directory": {
			[]string{"server", "../data", "--words=../words", "..", "lib/../main.py/..x"},
			[]string{at("data"), at("words"), dir},
		},
		"data in the working directory": {[]string{"server", "lib", "./lib", "lib/../lib"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, program.Brought(tt.args, at("work"))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestPrefix(t *testing.T) {
	dir := t.TempDir()
	for _, folder := range []string{"python/bin", "python/lib", "app/bin", "tools/scripts", "tools/lib", "jdk/sbin", "jdk/libexec"} {
		if err := os.MkdirAll(filepath.Join(dir, folder), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for bin, want := range map[string]string{
		filepath.Join(dir, "python/bin"):    filepath.Join(dir, "python"),
		filepath.Join(dir, "jdk/sbin"):      filepath.Join(dir, "jdk"),
		filepath.Join(dir, "app/bin"):       "",
		filepath.Join(dir, "tools/scripts"): "",
		filepath.Join(dir, "nowhere/bin"):   "",
		"/bin":                              "",
		"/":                                 "",
		"":                                  "",
	} {
		if got := program.Prefix(bin); got != want {
			t.Errorf("Prefix(%q) = %q, want %q", bin, got, want)
		}
	}
}
