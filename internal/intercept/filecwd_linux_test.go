//go:build amd64 || arm64

package intercept

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/mirrord-go/mirrord/internal/filemode"
)

// A directory that only the target has can be a working directory: for relative paths, for what is started there, and by its name.
func TestWorkingDirectory(t *testing.T) {
	f := serveFiles(t, filemode.Settings{Mode: filemode.Read})
	f.put(t, "/app/sub/deep/down", "deep\n")
	for link, to := range map[string]string{"short": "sub/deep", "abs": "../app/./sub/", "loop": "loop", "out": "nowhere"} {
		if err := os.Symlink(to, filepath.Join(f.root, "app", link)); err != nil {
			t.Fatal(err)
		}
	}
	own := t.TempDir()
	for _, tt := range []struct {
		name string
		argv []string
		want string
	}{
		{"shell", []string{"sh", "-c", "cd /app && cat hello; cat ../etc/app/x.conf; echo; ls sub; pwd; env pwd"}, "from the target\nx\ndeep\none\ntwo\n/app\n/app\n"},
		{"bash", []string{"bash", "-c", "cd /app/sub && cat deep/down && cd deep && cat down && cd .. && cat one && pwd -P && cd ../../app && pwd"}, "deep\ndeep\n1/app/sub\n/app\n"},
		{"links", []string{"bash", "-c", "cd /app/short && cat down && pwd -P && cd -P .. && pwd && cd /app/abs && pwd -P && cat one"}, "deep\n/app/sub/deep\n/app/sub\n/app/sub\n1"},
		{
			"errors",
			[]string{"python3", "-c", "import os\nfor p in '/app/none', '/app/hello', '/app/loop', '/app/out', '/app/hello/x':\n  try: os.chdir(p)\n  except OSError as e: print(e.errno)"},
			"2\n20\n40\n2\n20\n",
		},
		{
			"python",
			[]string{"python3", "-c", "import os, subprocess, sys; here = os.getcwd(); os.chdir('/app'); print(open('hello').read(), end=''); print(os.getcwd(), os.listdir(), os.path.abspath('x')); " +
				"os.chdir('sub'); print(open('two').read(), os.stat('one').st_size, os.path.exists('hello'), os.getcwd()); os.chdir('..'); print(os.getcwd()); " +
				"subprocess.run(['cat', 'hello']); subprocess.run(['cat', 'one'], cwd='/app/sub'); subprocess.run(['cat', 'deep/down'], cwd='sub', close_fds=True); os.chdir(here); print(os.getcwd() == here)"},
			"",
		},
		{
			"threads",
			[]string{"python3", "-c", "import os, threading\nt = threading.Thread(target=os.chdir, args=('/app/sub',)); t.start(); t.join(); print(open('one').read(), os.getcwd())"},
			"1 /app/sub\n",
		},
		{
			"fork",
			[]string{"python3", "-c", "import os\nos.chdir('/app')\nif os.fork() == 0:\n  print(open('hello').read(), end='', flush=True); os.chdir('sub'); os.execvp('cat', ['cat', 'one'])\nos.wait(); print(os.getcwd())"},
			"from the target\n1/app\n",
		},
		{"node", []string{"node", "-e", "process.chdir('/app'); console.log(require('fs').readFileSync('hello', 'utf8').trim(), process.cwd(), require('child_process').execSync('cat one', {cwd: '/app/sub'}).toString())"}, "from the target /app 1\n"},
		{"the laptop's", []string{"sh", "-c", "cd " + own + " && pwd && echo x > mine && cd /app && cat hello && cd - && cat mine"}, own + "\nfrom the target\n" + own + "\nx\n"},
		{"no room", []string{"python3", "-c", "import ctypes, os; os.chdir('/app'); c = ctypes.CDLL(None, use_errno=True); b = ctypes.create_string_buffer(9); n = 79 if os.uname().machine == 'x86_64' else 17\n" +
			"print(c.syscall(n, b, 4), ctypes.get_errno(), c.syscall(n, b, 5), b.value, c.syscall(n, 1, 9), ctypes.get_errno())"}, "-1 34 5 b'/app' -1 14\n"},
		{"read only", []string{"sh", "-c", "cd /app && { echo x > new; } 2>&1 | sed 's/.*: //'"}, "Read-only file system\n"},
		{"go", []string{goChild(t), "chdir", "/app/sub", "one"}, "1 /app/sub\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			needTool(t, tt.argv[0])
			code, out := f.run(t, tt.argv...)
			if tt.name == "python" {
				tt.want = "from the target\n/app [" + strings.Join(listed(t, f, "app"), ", ") + "] /app/x\n22 1 False /app/sub\n/app\nfrom the target\n1deep\nTrue\n"
				// The order of a directory is its own, and what is not flushed comes last.
				out, tt.want = sortedLines(out), sortedLines(tt.want)
			}
			if out != tt.want {
				t.Errorf("code %d, output\n%s, want\n%s", code, out, tt.want)
			}
		})
	}
}

// listed are the names in a directory of the target, as Python prints them.
func listed(t *testing.T, f *targetFiles, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(f.root, dir))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, "'"+e.Name()+"'")
	}
	return names
}

func sortedLines(text string) string {
	lines := strings.Split(text, "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// Relative names change the target in mode write.
func TestWorkingDirectoryWritten(t *testing.T) {
	f := serveFiles(t, filemode.Settings{Mode: filemode.Write})
	script := `set -e; cd /app; echo new > made; echo more >> made; mkdir -p a/b/c; mv made a/b/c/; cd a/b/c; ln -s made soft; cat soft; cd ../..; rm -r b; ls; cd ..; rmdir a; rm sub/one; chmod 600 hello`
	if code, out := f.run(t, "bash", "-c", script); code != 0 || out != "new\nmore\n" {
		t.Errorf("code %d, output\n%s", code, out)
	}
	entries := listed(t, f, "app")
	if want := []string{"'data.json'", "'hello'", "'link'", "'mod.js'", "'mod.py'", "'sub'"}; !slices.Equal(entries, want) {
		t.Errorf("the target has %v", entries)
	}
}

// What has the directory too keeps its own, and files go by the rules for their whole path.
func TestWorkingDirectoryOfBoth(t *testing.T) {
	own := t.TempDir()
	f := serveFiles(t, filemode.Settings{Mode: filemode.Read, ReadOnly: []string{"^" + own}})
	f.put(t, own+"/theirs", "from the target\n")
	if err := os.Mkdir(filepath.Join(own, "here"), 0o755); err != nil {
		t.Fatal(err)
	}
	f.put(t, own+"/there/x", "x\n")
	if err := os.Symlink("here", filepath.Join(own, "there")); err != nil {
		t.Fatal(err)
	}
	if code, out := f.run(t, "sh", "-c", "cd "+own+" && cat theirs && echo x > mine && pwd -P && cd there && cat x"); out != "from the target\n"+own+"\nx\n" {
		t.Errorf("code %d, output %s", code, out)
	}
	if b, err := os.ReadFile(filepath.Join(own, "mine")); string(b) != "x\n" {
		t.Errorf("what is written stays here: %q, %v", b, err)
	}
}

// Signals, and stops of job control, are neither lost nor in the way. A signal whose handler ends calls may still end one that we have not yet
// seen: the kernel does that, so this handler has calls restarted.
func TestWorkingDirectoryUnderSignals(t *testing.T) {
	t.Parallel()
	f := serveFiles(t, filemode.Settings{Mode: filemode.Read})
	const script = `
import os, signal, sys
got = 0
def handler(*_):
    global got; got += 1
signal.signal(signal.SIGUSR1, handler); signal.siginterrupt(signal.SIGUSR1, False)
me = os.getpid(); n = 150
child = os.fork()
if child == 0:
    for i in range(n):
        os.kill(me, signal.SIGUSR1)
        if i % 20 == 0: os.kill(me, signal.SIGSTOP); os.kill(me, signal.SIGCONT)
    os._exit(0)
for i in range(n):
    os.chdir('/app/sub' if i % 2 else '/app')
    assert os.path.exists('one') == bool(i % 2), i
assert os.waitpid(child, 0)[1] == 0
print('done', got > 0, len(os.listdir('/proc/self/fd')) < 10)
`
	if code, out := f.run(t, "python3", "-c", script); out != "done True True\n" {
		t.Errorf("code %d, output %s", code, out)
	}
}

// A process that is killed on its way into a directory is reported to its parent as ever.
func TestWorkingDirectoryOfTheKilled(t *testing.T) {
	t.Parallel()
	f := serveFiles(t, filemode.Settings{Mode: filemode.Read})
	const script = `
import os, signal, time
for i in range(25):
    child = os.fork()
    if child == 0:
        while True: os.chdir('/app'); os.chdir('/app/sub')
    time.sleep(i % 10 / 2000)
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0) == (child, signal.SIGKILL)
print('done')
`
	if code, out := f.run(t, "python3", "-c", script); out != "done\n" {
		t.Errorf("code %d, output %s", code, out)
	}
	for range 2 {
		if code, _ := f.run(t, "python3", "-c", "import os, signal, threading; threading.Timer(.02, os.kill, (os.getpid(), signal.SIGKILL)).start()\nwhile True: os.chdir('/app')"); code != -1 {
			t.Errorf("code %d, want an end by a signal", code)
		}
	}
}

// Of a process that a debugger traces, the working directory stays, and the user reads why.
func TestWorkingDirectoryOfTheTraced(t *testing.T) {
	t.Parallel()
	f := serveFiles(t, filemode.Settings{Mode: filemode.Read})
	var mu sync.Mutex
	var said []string
	f.server.Notice = func(text string) {
		mu.Lock()
		defer mu.Unlock()
		said = append(said, text)
	}
	const script = `
import ctypes, os
c = ctypes.CDLL(None)
child = os.fork()
if child == 0:
    c.ptrace(0, 0, 0, 0) # PTRACE_TRACEME
    try: os.chdir('/app')
    except OSError as e: os._exit(e.errno)
    os._exit(100)
print(os.WEXITSTATUS(os.waitpid(child, 0)[1]))
`
	if code, out := f.run(t, "python3", "-c", script); out != "2\n" {
		t.Errorf("code %d, output %s", code, out)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(said) != 1 || !strings.HasPrefix(said[0], "/app is a directory of the target that a process can't change into") {
		t.Errorf("the user read %q", said)
	}
}

// Programs outside of the session have the laptop's files.
func TestFilesOutside(t *testing.T) {
	f := serveFiles(t, filemode.Settings{Mode: filemode.Write, NotFound: []string{`\.hidden$`}})
	own := t.TempDir()
	hidden := filepath.Join(own, "x.hidden")
	if err := os.WriteFile(hidden, []byte("laptop\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tool := renamed(t, goChild(t), "tool")
	r := launch(t, &fakeTarget{}, func(o *Options, _ *times) {
		o.Files = f.server
		o.Outside = func(p Program) bool { return filepath.Base(p.File()) == "tool" }
	}, "sh", "-c", tool+" chdir / /app/hello; cat /app/hello; "+tool+" chdir / "+hidden+"; cat "+hidden+" || echo none; cd /app && cat hello && "+tool+" chdir . hello; "+tool+" chdir /app hello")
	want := []string{
		"error: open /app/hello: no such file or directory", "from the target", "laptop", " /", "none", "from the target",
		"from the target", " /app", "error: chdir /app: no such file or directory", "",
	}
	if code, out := r.exit(); !slices.Equal(withoutErrors(out), want) {
		t.Errorf("code %d, output\n%s", code, out)
	}
}

// withoutErrors are the lines of an output but for those of cat about what it does not find.
func withoutErrors(out string) []string {
	return slices.DeleteFunc(strings.Split(out, "\n"), func(line string) bool { return strings.Contains(line, "No such file") })
}
