package e2e

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	neturl "net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"

	"github.com/mirrord-go/mirrord/internal/cli/progress"
)

// network is the way from a laptop to the API server, which tests break.
type network struct {
	kubeconfig string
	listener   net.Listener
	server     string
	all        sync.WaitGroup

	// left are the bytes until the next cut; cuts that are left to make, soon those that come soon after another one.
	left atomic.Int64
	cuts atomic.Int64
	soon atomic.Int64
	mean int64

	mu    sync.Mutex
	down  bool
	conns map[*net.TCPConn]bool
}

// network returns a way of its own to the API server, with the administrator's rights.
func (s *stage) network(t *testing.T) *network {
	t.Helper()
	return networkFor(t, s.Kubeconfig)
}

// networkFor is a way of its own to the API server of a kubeconfig.
func networkFor(t *testing.T, kubeconfig string) *network {
	t.Helper()
	config, err := clientcmd.LoadFromFile(kubeconfig)
	must(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	n := &network{listener: l, conns: map[*net.TCPConn]bool{}, kubeconfig: filepath.Join(t.TempDir(), "kubeconfig")}
	for _, c := range config.Clusters {
		u, err := neturl.Parse(c.Server)
		must(t, err)
		n.server = u.Host
		if c.TLSServerName == "" {
			c.TLSServerName = u.Hostname()
		}
		u.Host = l.Addr().String()
		c.Server = u.String()
	}
	must(t, clientcmd.WriteToFile(*config, n.kubeconfig))
	n.left.Store(1 << 62)
	n.all.Go(n.accept)
	t.Cleanup(func() {
		_ = l.Close()
		n.cut()
		n.all.Wait()
	})
	return n
}

func (n *network) accept() {
	for {
		near, err := n.listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", n.server)
		if err != nil || !n.join(near.(*net.TCPConn), far.(*net.TCPConn)) {
			_ = near.Close()
			continue
		}
		n.all.Go(func() { n.copy(near, far) })
		n.all.Go(func() { n.copy(far, near) })
	}
}

func (n *network) join(conns ...*net.TCPConn) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range conns {
		if n.down {
			_ = c.SetLinger(0)
			_ = c.Close()
			continue
		}
		n.conns[c] = true
	}
	return !n.down
}

func (n *network) copy(dst, src net.Conn) {
	defer func() { _, _ = dst.Close(), src.Close() }()
	buf := make([]byte, 64<<10)
	for {
		m, err := src.Read(buf)
		if err != nil {
			return
		}
		left := n.left.Add(-int64(m))
		if left >= 0 || left < -int64(m) {
			if _, err := dst.Write(buf[:m]); err != nil {
				return
			}
			continue
		}
		// This is the piece in which everything breaks, and it arrives in part.
		_, _ = dst.Write(buf[:int64(m)+left])
		n.cut()
		if n.cuts.Add(-1) > 0 {
			next := rand.N(2*n.mean) + 1
			if next < comingBack {
				n.soon.Add(1)
			}
			n.left.Store(next)
		} else {
			n.left.Store(1 << 62)
		}
		return
	}
}

// cut resets all connections, as a network that changes does.
func (n *network) cut() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for c := range n.conns {
		_ = c.SetLinger(0)
		_ = c.Close()
	}
	clear(n.conns)
}

// setDown cuts, and lets nothing through until it is up again.
func (n *network) setDown(down bool) {
	n.mu.Lock()
	n.down = down
	n.mu.Unlock()
	if down {
		n.cut()
	}
}

// comingBack is more than passes while a connection comes back: one that is cut before is in the same pause.
const comingBack = 1 << 20

// cutOften cuts the given number of times in the next bytes, at random.
func (n *network) cutOften(times, bytes int64) {
	n.mean = bytes / times
	n.soon.Store(0)
	n.cuts.Store(times)
	n.left.Store(rand.N(2*n.mean) + 1)
}

// pauses counts what the user was told.
func (se *session) pauses() (broke, back int) {
	se.mu.Lock()
	defer se.mu.Unlock()
	for _, e := range se.events {
		switch e.Event {
		case "tunnel-paused":
			broke++
		case "tunnel-resumed":
			back++
		}
	}
	return broke, back
}

// cutTimes is how often the connection breaks in one test.
const cutTimes = 50

// TestBrokenConnection moves 1 GiB each way at once, outgoing and stolen, while the connection to
// the API server is cut at random bytes. Both ends compute the same checksums.
func TestBrokenConnection(t *testing.T) {
	s := newStage(t)
	s.deploy(t, shop+"---"+db, "deployment/shop", "pod/db")
	s.staysWhole(t, s.network(t), false)
}

// TestBrokenConnectionToOperator is the same with sessions/connect as the carrier, for a user who has
// no right but to use the operator.
func TestBrokenConnectionToOperator(t *testing.T) {
	s := newCrowdStage(t, 2, time.Second)
	s.staysWhole(t, networkFor(t, s.user), true)
}

// staysWhole moves much through a connection that breaks often.
func (s *stage) staysWhole(t *testing.T, n *network, operator bool) {
	t.Helper()
	_, shopIP := s.shopPod(t)
	dbIP := s.Pod(t, s.ns, "db").Status.PodIP
	size, limit := fmt.Sprintf("-size=%d", gibibyte), "-timeout="+bulkPatience.String()
	// Some of what is moved is left when the last cut has been made, also when all of them come late.
	const during = 2 * gibibyte * 6 / 10

	t.Run("outgoing", func(t *testing.T) {
		se := s.start(t, run{
			kubeconfig: n.kubeconfig,
			config:     object{"operator": operator, "feature": object{"network": object{"incoming": "off"}}},
			command: []string{
				"sh", "-c", `"$0" push "$1" "$2" "$3" & p=$!; "$0" pull "$1" "$2" "$4" && wait $p`,
				built.workload, size, limit, net.JoinHostPort(dbIP, "9003"), net.JoinHostPort(dbIP, "9002"),
			},
		})
		se.started()
		n.cutOften(cutTimes, during)
		if code := se.waitFor(bulkPatience); code != 0 {
			t.Fatalf("exit code %d", code)
		}
		for line := range strings.Lines(strings.TrimSpace(se.out.String())) {
			checkBulk(t, line)
		}
		checkPauses(t, n, se)
	})
	t.Run("stolen", func(t *testing.T) {
		se := s.start(t, run{
			kubeconfig: n.kubeconfig,
			config:     object{"operator": operator, "feature": object{"network": object{"incoming": "steal"}}},
			command:    []string{built.workload, "serve", "-http", "", "-source", ":9002", "-sink", ":9003", "-name", "laptop"},
		})
		se.subscribed(9002)
		se.subscribed(9003)
		n.cutOften(cutTimes, during)
		var both sync.WaitGroup
		for _, c := range []struct{ verb, port string }{{"pull", "9002"}, {"push", "9003"}} {
			both.Go(func() {
				out, err := exec.Command(built.workload, c.verb, size, limit, net.JoinHostPort(shopIP, c.port)).Output()
				if err != nil {
					var exit *exec.ExitError
					if errors.As(err, &exit) {
						err = fmt.Errorf("%w: %s", err, exit.Stderr)
					}
					t.Errorf("%s: %v", c.verb, err)
					return
				}
				checkBulk(t, string(out))
			})
		}
		both.Wait()
		checkPauses(t, n, se)
		se.stop()
	})
}

// checkPauses checks that all cuts were made, and that the user was told of each once when it came and once
// when it was over.
func checkPauses(t *testing.T, n *network, se *session) {
	t.Helper()
	if left := n.cuts.Load(); left > 0 {
		t.Errorf("%d cuts were not made", left)
	}
	soon := int(n.soon.Load())
	eventually(t, func() error { // the last of them may go on for a moment, where the session does
		broke, back := se.pauses()
		if broke != back || broke < cutTimes-soon {
			return fmt.Errorf("%d pauses and %d ends of one were told, for %d cuts, of which %d came soon after another", broke, back, cutTimes, soon)
		}
		return nil
	})
	broke, back := se.pauses()
	t.Logf("the user was told of %d pauses and %d ends of one", broke, back)
}

// TestStealInAPause: while the laptop is away, the target answers those who come; who was connected to the
// laptop waits for it.
func TestStealInAPause(t *testing.T) {
	s := newStage(t)
	s.deploy(t, shop, "deployment/shop")
	pod, ip := s.shopPod(t)
	n := s.network(t)
	se := s.start(t, run{
		kubeconfig: n.kubeconfig,
		config:     object{"feature": object{"network": object{"incoming": "steal"}}},
		command:    []string{built.workload, "serve", "-http", ":8080", "-name", "laptop"},
	})
	se.subscribed(8080)
	address := url(ip, 8080)
	kept := &http.Client{Transport: &http.Transport{}, Timeout: patience}
	fresh := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	answeredBy := func(c *http.Client, want string) {
		t.Helper()
		name, err := whoAnswers(c, address)
		if err != nil || name != want {
			t.Errorf("answered by %q, %v; want %q", name, err, want)
		}
	}
	eventually(t, func() error {
		name, err := whoAnswers(kept, address)
		if err == nil && name != "laptop" {
			err = fmt.Errorf("answered by %q", name)
			kept.CloseIdleConnections()
		}
		return err
	})

	w := watch(t, address, quick)
	cuts, late := 0, true
	for ; late && cuts < 1+moreRounds; cuts++ { // the machine may have stalled just then
		n.setDown(false)
		eventually(t, func() error {
			if broke, back := se.pauses(); broke != cuts || back != cuts {
				return fmt.Errorf("%d pauses and %d ends of one were told, want %d", broke, back, cuts)
			}
			return nil
		})
		w.steadyAgain(t, time.Now(), "laptop")
		n.setDown(true)
		cut := time.Now()
		took, most := w.steadyAgain(t, cut, pod), w.allowed(cut)
		t.Logf("the pod answered after %v, promised are %v", took.Round(time.Millisecond), most.Round(time.Millisecond))
		late = took > most
	}
	if late {
		t.Errorf("the pod answered too late each of %d times", cuts)
	}
	eventually(t, func() error {
		if broke, _ := se.pauses(); broke != cuts {
			return fmt.Errorf("%d pauses were told, want %d", broke, cuts)
		}
		return nil
	})
	se.event("the pause was told", func(l progress.Line) bool { return l.Event == "tunnel-paused" && l.Level == "warning" })
	answeredBy(fresh, pod)
	answer := make(chan string, 1)
	go func() {
		name, err := whoAnswers(kept, address)
		answer <- fmt.Sprint(name, err)
	}()
	select {
	case a := <-answer:
		t.Errorf("who was connected to the laptop was answered by %s", a)
	case <-time.After(2 * time.Second): // long enough to see that it waits
	}
	n.setDown(false)
	se.event("the end of the pause was told", func(l progress.Line) bool { return l.Event == "tunnel-resumed" && l.Level == "info" })
	if a := <-answer; a != fmt.Sprint("laptop", error(nil)) {
		t.Errorf("who was connected to the laptop was answered by %s", a)
	}
	w.steadyAgain(t, time.Now(), "laptop")
	answeredBy(fresh, "laptop")
	eventually(t, func() error {
		if broke, back := se.pauses(); broke != cuts || back != cuts {
			return fmt.Errorf("%d pauses and %d ends of one were told, for %d cuts", broke, back, cuts)
		}
		return nil
	})
	w.end()
	if code := se.stop(); code == 1 {
		t.Error("the session failed")
	}
	s.nothingRemains(t)
}

// TestGraceIsOver: a connection that does not come back in time is a lost one, on both sides.
func TestGraceIsOver(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.deploy(t, shop, "deployment/shop")
	n := s.network(t)
	se := s.start(t, run{
		kubeconfig: n.kubeconfig,
		config: object{
			"feature": object{"network": object{"incoming": "steal"}},
			"agent":   object{"communication_timeout": 3},
		},
		command: []string{built.workload, "serve", "-http", ":8080", "-name", "laptop"},
	})
	se.subscribed(8080)
	n.setDown(true)
	if code := se.wait(); code != 1 {
		t.Errorf("exit code %d", code)
	}
	se.event("the loss was told", func(l progress.Line) bool { return l.Event == "tunnel-lost" })
	s.nothingRemains(t)
}
