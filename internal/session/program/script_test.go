package program_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mirrord-go/mirrord/internal/session/program"
)

func TestScripts(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"serve.py", "Serve.JS", "a.jar", "b.jar", "settings.yaml", "data"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "folder.js"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("serve.py", filepath.Join(dir, "link.py")); err != nil {
		t.Fatal(err)
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	for name, tt := range map[string]struct {
		args, want []string
	}{
		"none":                      {nil, nil},
		"a program alone":           {[]string{at("serve.py")}, nil},
		"a script":                  {[]string{"python3", "-u", at("serve.py"), "--port", "80"}, []string{at("serve.py")}},
		"in other letters":          {[]string{"node", at("Serve.JS")}, []string{at("Serve.JS")}},
		"a link":                    {[]string{"python3", at("link.py")}, []string{at("link.py"), at("serve.py")}},
		"a class path":              {[]string{"java", "-cp", at("a.jar") + ":" + at("b.jar") + ":/nowhere/c.jar", "Main"}, []string{at("a.jar"), at("b.jar")}},
		"not clean":                 {[]string{"python3", dir + "//./serve.py"}, []string{at("serve.py")}},
		"what a target may have":    {[]string{"server", "--config", at("settings.yaml"), at("data")}, nil},
		"a folder":                  {[]string{"node", at("folder.js")}, nil},
		"what is not here":          {[]string{"python3", "/nowhere/serve.py"}, nil},
		"below a working directory": {[]string{"python3", "serve.py"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, program.Scripts(tt.args)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
