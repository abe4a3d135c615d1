package session

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"syscall"

	"github.com/mirrord-go/mirrord/internal/intercept"
	"github.com/mirrord-go/mirrord/internal/session/program"
)

// maxLocalNames bounds the sockets that the user is told about.
const maxLocalNames = 64

// fellBack remembers which Unix sockets were the laptop's after all, so that the user reads
// it once for each.
type fellBack struct {
	mu    sync.Mutex
	names map[string]bool
}

func (f *fellBack) first(name string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.names[name] || len(f.names) >= maxLocalNames {
		return false
	}
	if f.names == nil {
		f.names = make(map[string]bool)
	}
	f.names[name] = true
	return true
}

// RouteUnix implements [intercept.Network].
func (n *network) RouteUnix(name string) intercept.Verdict {
	v := n.table.RouteUnix(name)
	if v == intercept.Local {
		n.tellOfContainers(program.ContainerService(name))
	}
	return v
}

// tellOfContainers warns, once, that containers are out of reach.
func (n *network) tellOfContainers(warning string, is bool) {
	if is {
		n.containersTold.Do(func() { n.observer.Event(Event{Kind: "notice", Warning: true, Text: warning}) })
	}
}

// DialUnix implements [intercept.Network]. Where the target has no such socket and the laptop
// does, the laptop's is used: desktops, editors and shells talk to many of their own.
func (n *network) DialUnix(ctx context.Context, packets bool, name string) (intercept.UnixConn, error) {
	c, err := n.Fleet.DialUnix(ctx, packets, name)
	if err == nil || !absent(name, err) || !onLaptop(name) {
		return c, err
	}
	if n.fellBack.first(name) {
		n.observer.Event(Event{
			Kind: "unix-socket-local", Warning: true,
			Text: fmt.Sprintf("the target has no socket %s: the process uses this machine's", name),
		})
	}
	n.tellOfContainers(program.ContainerService(name))
	return nil, intercept.ErrLocal
}

// absent says that there is no socket of that name, rather than one that refuses.
func absent(name string, err error) bool {
	if strings.HasPrefix(name, "@") {
		return errors.Is(err, syscall.ECONNREFUSED) // connect(2) knows no other errno for it
	}
	return errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ENOTDIR)
}

// onLaptop says whether this machine has a socket of that name.
func onLaptop(name string) bool {
	if !strings.HasPrefix(name, "@") {
		info, err := os.Stat(name)
		return err == nil && info.Mode()&fs.ModeSocket != 0
	}
	b, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		return false
	}
	// The kernel writes "@" for each zero byte of a name.
	want := " " + strings.ReplaceAll(name, "\x00", "@")
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		if strings.HasSuffix(s.Text(), want) {
			return true
		}
	}
	return false
}
