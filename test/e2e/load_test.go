package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// crowd is how many connections are open at once.
const crowd = 1000

// openMany opens many connections at once to the address in its arguments, and only when
// all are open has each echo a line of its own.
const openMany = `
import asyncio, sys
host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
async def main():
    conns = await asyncio.gather(*[asyncio.open_connection(host, port) for _ in range(count)])
    async def talk(i, r, w):
        line = b"line %d\n" % i
        w.write(line)
        await w.drain()
        assert await r.readexactly(len(line)) == line
    await asyncio.gather(*[talk(i, r, w) for i, (r, w) in enumerate(conns)])
    print("echoed", len(conns), flush=True)
    sys.stdin.readline()
asyncio.run(main())
`

// maxMemory is what the CLI may have held at most with a crowd of connections, in KiB, and maxRest what it may go on
// holding after a bulk transfer. It has held about 55 MiB; the most of it depends on when the runtime found the time to collect
// garbage, which is late on a busy machine.
const (
	maxMemory = 96 << 10
	maxRest   = 64 << 10
)

// twoProcessors make the memory of a program the same on every machine: the runtime keeps some for each processor.
var twoProcessors = []string{"GOMAXPROCS=2"}

// bulk is the size of a transfer before the crowd, which grows all buffers of the CLI.
const bulk = 256 << 20

// TestCrowd: a thousand connections at once in each direction, none of which fails, also after a bulk transfer.
func TestCrowd(t *testing.T) {
	s := newStage(t)
	s.deploy(t, shop+"---"+db, "deployment/shop", "pod/db")
	_, ip := s.shopPod(t)
	t.Run("outgoing", func(t *testing.T) {
		se := s.start(t, run{
			config: object{"feature": object{"network": object{"incoming": "off"}}},
			env:    twoProcessors,
			command: []string{
				"sh", "-c", `"$1" pull "-size=$2" "$3:9002" && read line && exec python3 -c "$0" "$3" 9000 "$4"`,
				openMany, built.workload, fmt.Sprint(bulk), s.Pod(t, s.ns, "db").Status.PodIP, fmt.Sprint(crowd),
			},
			stdin: true,
		})
		eventually(t, func() error {
			if !strings.Contains(se.out.String(), "sha256") {
				return fmt.Errorf("the local process says %q", se.out.String())
			}
			return nil
		})
		calmsDown(t, se)
		_, err := fmt.Fprintln(se.stdin, "go on")
		must(t, err)
		eventually(t, func() error {
			if !strings.Contains(se.out.String(), fmt.Sprintf("echoed %d", crowd)) {
				return fmt.Errorf("the local process says %q", se.out.String())
			}
			return nil
		})
		checkMemory(t, se)
		_ = se.stdin.Close()
		if code := se.wait(); code != 0 {
			t.Errorf("exit code %d", code)
		}
	})
	t.Run("stolen", func(t *testing.T) {
		se := s.start(t, run{
			config:  object{"feature": object{"network": object{"incoming": "steal"}}},
			env:     twoProcessors,
			command: []string{built.workload, "serve", "-http", "", "-tcp", ":9000", "-source", ":9002", "-name", "laptop"},
		})
		se.subscribed(9000)
		se.subscribed(9002)
		_, err := exec.Command(built.workload, "pull", fmt.Sprintf("-size=%d", bulk), net.JoinHostPort(ip, "9002")).Output()
		must(t, err)
		calmsDown(t, se)
		conns := make([]net.Conn, crowd)
		var wg sync.WaitGroup
		for i := range conns {
			wg.Go(func() {
				c, err := net.DialTimeout("tcp", net.JoinHostPort(ip, "9000"), patience)
				if err != nil {
					t.Error(err)
					return
				}
				conns[i] = c
				_ = c.SetDeadline(time.Now().Add(patience))
				line := fmt.Sprintf("line %d\n", i)
				if _, err := fmt.Fprint(c, line); err != nil {
					t.Error(err)
					return
				}
				if got, err := bufio.NewReader(c).ReadString('\n'); err != nil || got != line {
					t.Errorf("connection %d: %q, %v", i, got, err)
				}
			})
		}
		wg.Wait()
		checkMemory(t, se)
		for _, c := range conns {
			if c != nil {
				_ = c.Close()
			}
		}
		se.stop()
	})
}

// checkMemory looks at what the CLI held at most.
func checkMemory(t *testing.T, se *session) {
	t.Helper()
	kib := se.memory(t, "VmHWM")
	t.Logf("the CLI held %d MiB", kib>>10)
	if kib > maxMemory {
		t.Errorf("the CLI held %d KiB with %d connections, want at most %d", kib, crowd, maxMemory)
	}
}

// calmsDown waits until the CLI has given back what a burst took, and has its peak begin again (proc_pid_clear_refs(5)).
func calmsDown(t *testing.T, se *session) {
	t.Helper()
	t.Logf("the CLI held %d MiB with a bulk transfer", se.memory(t, "VmHWM")>>10)
	eventually(t, func() error {
		if kib := se.memory(t, "VmRSS"); kib > maxRest {
			return fmt.Errorf("the CLI goes on holding %d KiB after a bulk transfer, want at most %d", kib, maxRest)
		}
		return nil
	})
	must(t, os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", se.cmd.Process.Pid), []byte("5"), 0))
}

// memory reads a size of the CLI from its status in /proc, in KiB.
func (se *session) memory(t *testing.T, key string) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", se.cmd.Process.Pid))
	must(t, err)
	for line := range strings.Lines(string(b)) {
		var kib int
		if n, _ := fmt.Sscanf(line, key+": %d kB", &kib); n == 1 {
			return kib
		}
	}
	t.Fatalf("the kernel does not tell the CLI's %s", key)
	return 0
}

// gibibyte is the size of a large transfer.
const gibibyte = 1 << 30

// TestGibibyte moves 1 GiB in each direction, outgoing and stolen; both ends compute the
// same checksum.
func TestGibibyte(t *testing.T) {
	s := newStage(t)
	s.deploy(t, shop+"---"+db, "deployment/shop", "pod/db")
	_, shopIP := s.shopPod(t)
	dbIP := s.Pod(t, s.ns, "db").Status.PodIP
	size, limit := fmt.Sprintf("-size=%d", gibibyte), "-timeout="+bulkPatience.String()
	for _, c := range []struct{ verb, port string }{{"pull", "9002"}, {"push", "9003"}} {
		t.Run("outgoing "+c.verb, func(t *testing.T) {
			se := s.start(t, run{
				config:  object{"feature": object{"network": object{"incoming": "off"}}},
				command: []string{built.workload, c.verb, size, limit, net.JoinHostPort(dbIP, c.port)},
			})
			if code := se.waitFor(bulkPatience); code != 0 {
				t.Fatalf("exit code %d", code)
			}
			checkBulk(t, se.out.String())
		})
	}
	se := s.start(t, run{
		config:  object{"feature": object{"network": object{"incoming": "steal"}}},
		command: []string{built.workload, "serve", "-http", "", "-source", ":9002", "-sink", ":9003", "-name", "laptop"},
	})
	se.subscribed(9002)
	se.subscribed(9003)
	for _, c := range []struct{ verb, port string }{{"pull", "9002"}, {"push", "9003"}} {
		t.Run("stolen "+c.verb, func(t *testing.T) {
			out, err := exec.Command(built.workload, c.verb, size, limit, net.JoinHostPort(shopIP, c.port)).Output()
			if err != nil {
				t.Fatal(err)
			}
			checkBulk(t, string(out))
		})
	}
	se.stop()
}

// checkBulk checks what a transfer printed: the workload itself has compared the checksums,
// and fails when they differ.
func checkBulk(t *testing.T, out string) {
	t.Helper()
	var b struct {
		Size   int64
		SHA256 string
	}
	if err := json.Unmarshal([]byte(out), &b); err != nil || b.Size != gibibyte || len(b.SHA256) != 64 {
		t.Errorf("the transfer says %q, %v", out, err)
	}
}
