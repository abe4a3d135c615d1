package integration

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/intercept"
	"github.com/mirrord-go/mirrord/internal/session"
)

// TestStarters runs programs that start other programs: that what they start is in the session, is not, or can't be.
func TestStarters(t *testing.T) {
	s := newTools(t, "air", "nodemon", "node", "node --watch", "shop", "mirrord", "setpriv", "runuser", "su")
	s.each(t, []toolTest{
		{"air reloads", airReloads},
		{"nodemon reloads", nodemonReloads},
		{"node --watch reloads", nodeReloads},
		{"programs that drop privileges", droppedPrivileges},
		{"a setuid program", setuidProgram},
		{"skip_processes", skipProcesses},
		{"a session in a session", nested},
		{"docker run", dockerRun},
	})
}

// reloads changes the program's source while the session runs: the pod's clients get the new program's answers.
func (w *world) reloads(t *testing.T, shop, source string, command ...string) {
	t.Helper()
	cfg := everythingRemote(incoming(config.IncomingSteal))
	cfg.SkipBuildTools = true
	r := w.startWith(t, cfg, command...)
	r.says("listening v1")
	w.request(t, "hello").answered(shop+" v1", "hello")
	for _, version := range []string{"v2", "v3"} {
		b, err := os.ReadFile(source)
		if err != nil {
			t.Fatal(err)
		}
		was := "v" + string(version[1]-1)
		// Written again when nothing happens: a watcher that is still looking around does not see the first change. Later and
		// later, since each change may begin a build anew.
		for wait := 4 * time.Second; ; wait *= 2 {
			if err := os.WriteFile(source, []byte(strings.Replace(string(b), was, version, 1)), 0o600); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), wait)
			err := r.out.await(ctx, "listening "+version)
			cancel()
			if err == nil {
				break
			}
			if wait > patience {
				t.Fatal(err)
			}
		}
		w.request(t, "hello").answered(shop+" "+version, "hello")
	}
	r.stop()
}

// copied is a file of testdata in a folder of the test's.
func copied(t *testing.T, name, as string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), as)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func airReloads(t *testing.T, w *world, s *tools) {
	air := s.need(t, "air")
	source := copied(t, "shop/main.go", "main.go")
	dir := filepath.Dir(source)
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte("module shop\n\ngo 1.26\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const settings = `
[build]
cmd = "go build -o ./tmp/shop ."
entrypoint = ["./tmp/shop", "%s"]
delay = 100
[misc]
startup_banner = ""
`
	if err := os.WriteFile(filepath.Join(dir, ".air.toml"), fmt.Appendf(nil, settings, shopPort), 0o600); err != nil {
		t.Fatal(err)
	}
	w.reloads(t, "go", source, "env", "-C", dir, "CGO_ENABLED=0", air)
}

func nodemonReloads(t *testing.T, w *world, s *tools) {
	source := copied(t, "shop.js", "shop.js")
	w.reloads(t, "node", source, s.need(t, "node"), s.need(t, "nodemon"), "--quiet", "--watch", source, source, shopPort)
}

func nodeReloads(t *testing.T, w *world, s *tools) {
	source := copied(t, "shop.js", "shop.js")
	w.reloads(t, "node", source, s.need(t, "node --watch"), "--watch-preserve-output", "--watch", source, shopPort)
}

// asNobody are ways to start a program as the user nobody, whose number Debian has fixed.
func asNobody(name, program string) []string {
	return map[string][]string{
		"setpriv": {"--reuid=65534", "--regid=65534", "--clear-groups", program, shopPort},
		"runuser": {"-u", "nobody", "--", program, shopPort},
		"su":      {"-s", "/bin/sh", "nobody", "-c", program + " " + shopPort},
	}[name]
}

func droppedPrivileges(t *testing.T, w *world, s *tools) {
	shop := s.need(t, "shop")
	for _, name := range []string{"setpriv", "runuser", "su"} {
		t.Run(name, func(t *testing.T) {
			r := w.session(t, append([]string{s.need(t, name)}, asNobody(name, shop)...)...)
			r.says("listening v1")
			w.request(t, "hello").answered("go v1", "hello")
			w.bye(t, r)
		})
	}
}

// setuidProgram: it runs, in the session, without the rights of its file's owner.
func setuidProgram(t *testing.T, w *world, s *tools) {
	b, err := os.ReadFile(s.need(t, "shop"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(s.Dir, "setuid-shop")
	if err := os.WriteFile(path, b, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o755|os.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	// Without a session, it would be root.
	asUser := []string{"--reuid=65534", "--regid=65534", "--clear-groups", path, "once"}
	setpriv := s.need(t, "setpriv")
	out, err := exec.Command(setpriv, asUser...).Output()
	if err != nil || !strings.HasPrefix(string(out), "uid 65534, euid 0: ") {
		t.Skipf("setuid has no effect here: %s, %v", out, err)
	}
	r := w.session(t, append([]string{setpriv}, asUser...)...)
	want := fmt.Sprintf("uid 65534, euid 65534: service saw %s: once", podIP)
	if got := strings.Join(r.wait(), "\n"); got != want {
		t.Errorf("the program says %q, want %q", got, want)
	}
}

// skipProcesses: a program of the list has the laptop's network, and what it starts has the pod's.
func skipProcesses(t *testing.T, w *world, s *tools) {
	b, err := os.ReadFile(s.need(t, "shop"))
	if err != nil {
		t.Fatal(err)
	}
	outside := filepath.Join(t.TempDir(), "outside-shop")
	if err := os.WriteFile(outside, b, 0o700); err != nil {
		t.Fatal(err)
	}
	cfg := everythingRemote(incoming(config.IncomingSteal))
	cfg.SkipProcesses = []string{"outside-shop", "starter.sh"}
	r := w.startWith(t, cfg, outside, shopPort)
	r.says("listening v1")
	w.podServes(t)
	c, err := net.Dial("tcp", "127.0.0.1:"+shopPort)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const own = "go v1 asked by 127.0.0.1; "
	if got, err := askOn(c, "hello"); err != nil || !strings.HasPrefix(got, own) || strings.Contains(got, "service saw") {
		t.Errorf("the program outside answers %q, %v", got, err)
	}
	r.stop()

	starter := filepath.Join(t.TempDir(), "starter.sh")
	const script = `#!/bin/bash
(exec 3<>/dev/tcp/%s/%d) 2>/dev/null && echo the script reaches the cluster || echo the script is outside
%s once
`
	if err := os.WriteFile(starter, fmt.Appendf(nil, script, service.Addr(), service.Port(), s.need(t, "shop")), 0o700); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("the script is outside\nuid 0, euid 0: service saw %s: once", podIP)
	if got := strings.Join(w.startWith(t, cfg, starter).wait(), "\n"); got != want {
		t.Errorf("the script and its child say %q, want %q", got, want)
	}
}

// nested: a session in a session is refused, whether the inner one knows of the outer or not.
func nested(t *testing.T, w *world, s *tools) {
	const inner = `exec -t pod/other -- echo it runs 2>&1; echo "exit code $?"`
	for name, test := range map[string]struct{ script, want string }{
		"known":   {`"$0" ` + inner, "this process already runs in session "},
		"unknown": {"env -u " + session.IDVariable + ` "$0" ` + inner, intercept.ErrNested.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			got := strings.Join(w.session(t, "sh", "-c", test.script, s.need(t, "mirrord")).wait(), "\n")
			if !strings.Contains(got, test.want) || !strings.HasSuffix(got, "exit code 1") || strings.Contains(got, "it runs") {
				t.Errorf("the inner mirrord says %q, want %q and exit code 1", got, test.want)
			}
		})
	}
}

// dockerRun: the user reads that containers are out of reach, once, whoever asks for them.
func dockerRun(t *testing.T, w *world, s *tools) {
	dir := t.TempDir()
	docker := filepath.Join(dir, "docker")
	socket := filepath.Join(dir, "docker.sock")
	script := fmt.Sprintf("#!/bin/sh\nexec %s testdata/docker.js %s\n", s.need(t, "node"), socket)
	if err := os.WriteFile(docker, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		command []string
		want    string
	}{
		"as the program": {[]string{docker, "run", "alpine"}, "docker has the target's network, but not"},
		"in a script":    {[]string{"sh", "-c", docker + " run alpine; " + docker + " run busybox"}, "a program asks " + socket},
	} {
		t.Run(name, func(t *testing.T) {
			r := w.session(t, test.command...)
			r.wait()
			var told []string
			for len(r.events) > 0 {
				if e := <-r.events; strings.Contains(e.Text, "containers") {
					told = append(told, e.Text)
				}
			}
			if len(told) != 1 || !strings.HasPrefix(told[0], "containers run outside of the session: ") || !strings.Contains(told[0], test.want) {
				t.Errorf("the user is told %q, want %q once", told, test.want)
			}
		})
	}
}
