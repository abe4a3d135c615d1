package steal

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/google/nftables"

	"github.com/mirrord-go/mirrord/internal/agent/podtest"
)

// After kill -9 the very next connection is the application's, and nothing remains.
func TestKill(t *testing.T) {
	each(t, func(t *testing.T, l *podtest.Pod, b Backend) {
		app(t, "tcp", fmt.Sprintf("[::]:%d", podPort))
		c := httpClient(t, l, false)
		dst := netip.AddrPortFrom(l.Pod.V4, podPort)
		before, _ := remains(t)
		for range 5 {
			wantFrom(t, c, dst, "app")
			holder := startHolding(t, b)
			wantFrom(t, c, dst, "agent")
			held, programs := remains(t)
			if slices.Equal(held, before) {
				t.Fatal("a steal leaves no trace; the test looks in the wrong place")
			}
			if err := holder.Process.Signal(syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			holder.Wait()
			wantFrom(t, c, dst, "app")
			if after, _ := remains(t); !slices.Equal(after, before) {
				t.Fatalf("remains %v, before %v", after, before)
			}
			for _, id := range programs {
				waitGone(t, id)
			}
		}
	})
}

// waitGone waits until a program is freed, which happens after a grace period.
func waitGone(t *testing.T, id ebpf.ProgramID) {
	t.Helper()
	for start := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		p, err := ebpf.NewProgramFromID(id)
		if errors.Is(err, os.ErrNotExist) {
			return
		}
		if err == nil {
			p.Close()
		}
		if time.Since(start) > time.Minute {
			t.Fatalf("program %d is still loaded (%v)", id, err)
		}
	}
}

// remains lists the BPF links and the nftables tables of this network namespace, and the
// programs that the links are of.
func remains(t *testing.T) (out []string, programs []ebpf.ProgramID) {
	t.Helper()
	ns, err := os.Stat("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	inode := uint32(ns.Sys().(*syscall.Stat_t).Ino)
	links := new(link.Iterator)
	for links.Next() {
		info, err := links.Link.Info()
		if err != nil {
			continue
		}
		if n := info.NetNs(); n != nil && n.NetnsInode == inode {
			out = append(out, fmt.Sprintf("link %d", info.ID))
			programs = append(programs, info.Program)
		}
	}
	links.Close()
	if err := links.Err(); err != nil {
		t.Fatal(err)
	}
	nft, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	tables, err := nft.ListTables()
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range tables {
		out = append(out, "table "+table.Name)
	}
	return out, programs
}
