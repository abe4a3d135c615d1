//go:build amd64 || arm64

package intercept

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/mirrord-go/mirrord/internal/filemode"
)

// A watch of the target's file is one: of what the session does with it. The user reads what it does not see.
func TestWatch(t *testing.T) {
	own := t.TempDir()
	f := serveFiles(t, filemode.Settings{Mode: filemode.Write, ReadWrite: []string{"^" + own}})
	f.put(t, own+"/theirs", "x")
	var mu sync.Mutex
	var said []string
	f.server.Notice = func(text string) {
		mu.Lock()
		defer mu.Unlock()
		said = append(said, text)
	}
	const script = `
import ctypes, errno, os, struct, sys
c = ctypes.CDLL(None, use_errno=True)
fd = c.inotify_init1(os.O_NONBLOCK)
def watch(path, mask=0x2, fd=fd): # IN_MODIFY
    wd = c.inotify_add_watch(fd, path.encode(), mask)
    return wd if wd > 0 else errno.errorcode[ctypes.get_errno()]
def events():
    try: b = os.read(fd, 4096)
    except BlockingIOError: return []
    out = []
    while b:
        wd, mask, _, n = struct.unpack('iIII', b[:16]); out.append((wd, hex(mask), b[16:16 + n].rstrip(b'\0').decode())); b = b[16 + n:]
    return out
print(watch('/app/hello'), watch('/app/hello'), watch('/app/sub') , watch('/app/none'), watch('/app/hello', 0x1000002), watch('/app/hello', 2, 99), watch('/app/hello', 2, 0), watch('/app/link', 0x2000002))
print(events())
with open('/app/hello', 'a') as g: g.write('more')
print(events())
os.chdir('/app'); w = watch('mod.py'); open('mod.py', 'w').write('x'); print(all(e == (w, '0x2', '') for e in events()))
w = watch(sys.argv[1], 0x100); open(sys.argv[1] + '/mine', 'w'); print(w > 0, events())
`
	if code, out := f.run(t, "python3", "-c", script, own); out != "1 1 2 ENOENT ENOTDIR EBADF EINVAL ELOOP\n[]\n[(1, '0x2', '')]\nTrue\nTrue []\n" {
		t.Errorf("code %d, output\n%s", code, out)
	}
	if _, err := os.Stat(filepath.Join(own, "mine")); err == nil {
		t.Error("mode write wrote on the laptop")
	}
	mu.Lock()
	defer mu.Unlock()
	if len(said) != 1 || !strings.HasPrefix(said[0], "/app/hello is watched (inotify), and is a file of the target") {
		t.Errorf("the user read %q", said)
	}
}
