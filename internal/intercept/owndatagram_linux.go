//go:build amd64 || arm64

package intercept

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// maxOwn bounds how many UDP sockets of the child are known; those that are closed go first.
const maxOwn = 1 << 14

// noteOwn records a UDP socket of the child.
func (t *datagrams) noteOwn(s *socket) {
	var st unix.Stat_t
	if unix.Fstat(s.fd, &st) != nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.own == nil {
		t.own = make(map[uint64]time.Time)
	}
	if _, known := t.own[st.Ino]; !known && len(t.own) >= maxOwn {
		return
	}
	t.own[st.Ino] = time.Now()
}

// isOwn says whether a UDP socket of the child has the port, on loopback.
func (t *datagrams) isOwn(dst netip.AddrPort) bool {
	t.mu.Lock()
	known := len(t.own) > 0
	t.mu.Unlock()
	if !known {
		return false
	}
	inodes, err := datagramSocketsAt(dst.Port())
	if err != nil {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, inode := range inodes {
		if _, ok := t.own[inode]; ok {
			return true
		}
	}
	return false
}

// forgetClosed drops the sockets that have no port, and were not used lately.
func (t *datagrams) forgetClosed(now time.Time) {
	t.mu.Lock()
	known := len(t.own) > 0
	t.mu.Unlock()
	if !known {
		return
	}
	open, err := openDatagramSockets()
	if err != nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for inode, used := range t.own {
		if !open[inode] && now.Sub(used) > settleTime {
			delete(t.own, inode)
		}
	}
}

// datagramSocketsAt are the inodes of the UDP sockets with a port: proc_pid_net(5).
func datagramSocketsAt(port uint16) ([]uint64, error) {
	const localColumn, inodeColumn = 1, 9
	suffix := fmt.Sprintf(":%04X", port)
	var inodes []uint64
	for _, name := range []string{"/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"} {
		f, err := os.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, fmt.Errorf("list datagram sockets: %w", err)
		}
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			fields := strings.Fields(lines.Text())
			if len(fields) <= inodeColumn || !strings.HasSuffix(fields[localColumn], suffix) {
				continue
			}
			if inode, err := strconv.ParseUint(fields[inodeColumn], 10, 64); err == nil {
				inodes = append(inodes, inode)
			}
		}
		err = lines.Err()
		_ = f.Close()
		if err != nil {
			return nil, fmt.Errorf("list datagram sockets: %w", err)
		}
	}
	return inodes, nil
}
