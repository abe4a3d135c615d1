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

// maxMemory is what the CLI may have held at most with a crowd of connections, in KiB.
const maxMemory = 64 << 10

// TestCrowd: a thousand connections at once in each direction, none of which fails.
func TestCrowd(t *testing.T) {
	s := newStage(t)
	s.deploy(t, shop+"---"+db, "deployment/shop", "pod/db")
	_, ip := s.shopPod(t)
	t.Run("outgoing", func(t *testing.T) {
		se := s.start(t, run{
			config:  object{"feature": object{"network": object{"incoming": "off"}}},
			command: []string{"python3", "-c", openMany, s.Pod(t, s.ns, "db").Status.PodIP, "9000", fmt.Sprint(crowd)},
			stdin:   true,
		})
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
			command: []string{built.workload, "serve", "-http", "", "-tcp", ":9000", "-name", "laptop"},
		})
		se.subscribed(9000)
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

func checkMemory(t *testing.T, se *session) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", se.cmd.Process.Pid))
	must(t, err)
	for line := range strings.Lines(string(b)) {
		var kib int
		if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kib); n == 1 {
			t.Logf("the CLI held %d MiB", kib>>10)
			if kib > maxMemory {
				t.Errorf("the CLI held %d KiB with %d connections, want at most %d", kib, crowd, maxMemory)
			}
			return
		}
	}
	t.Error("the kernel does not tell the CLI's memory")
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
	size := fmt.Sprintf("-size=%d", gibibyte)
	for _, c := range []struct{ verb, port string }{{"pull", "9002"}, {"push", "9003"}} {
		t.Run("outgoing "+c.verb, func(t *testing.T) {
			se := s.start(t, run{
				config:  object{"feature": object{"network": object{"incoming": "off"}}},
				command: []string{built.workload, c.verb, size, net.JoinHostPort(dbIP, c.port)},
			})
			if code := se.wait(); code != 0 {
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
			out, err := exec.Command(built.workload, c.verb, size, net.JoinHostPort(shopIP, c.port)).Output()
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
