package e2e

import (
	"net"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// inNetworkOf runs a program of this machine in the network namespace of a pod of the workload.
func (s *stage) inNetworkOf(t *testing.T, pod string, args ...string) {
	t.Helper()
	for pid, cmd := range processesOf(t, string(s.Pod(t, s.ns, pod).UID)) {
		if strings.Contains(cmd, "workload") {
			out, err := exec.Command("nsenter", append([]string{"-t", strconv.Itoa(pid), "-n"}, args...)...).CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %v\n%s", args, err, out)
			}
			return
		}
	}
	t.Fatalf("pod %s has no process", pod)
}

// TestTimeout: a server that says nothing is one for the local process too, for exactly as long
// as the target's network waits.
func TestTimeout(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.deploy(t, web([]uint16{8080})+"---"+db, "pod/web", "pod/db")
	db4, db6 := s.ips(t, "db")
	s.inNetworkOf(t, "db", "nft", "add table inet silence; add chain inet silence input { type filter hook input priority 0; }; add rule inet silence input tcp dport 82 drop")
	// Three seconds instead of two minutes.
	s.inNetworkOf(t, "web", "sh", "-c", "echo 1 > /proc/sys/net/ipv4/tcp_syn_retries")
	ref := s.profile(t, "remote", "outgoing-remote")
	for _, ip := range []string{db4, db6} {
		step := "tcp " + ip + " 82"
		start := time.Now()
		if got := s.errnoInPod(t, "tcp", net.JoinHostPort(ip, "82"), "-timeout", "60s"); got != "ETIMEDOUT" {
			t.Fatalf("in the pod: %s", got)
		}
		inPod := time.Since(start)
		for _, p := range programs(t) {
			if !slices.Contains([]string{"go-static", "python", "c-glibc"}, p.name) {
				continue
			}
			t.Run(p.name+" "+ip, func(t *testing.T) {
				p.need(t)
				se := s.start(t, run{config: object{"profile": ref, "target": s.webTarget()}, command: p.command(step)})
				se.started()
				start := time.Now()
				se.wait()
				if got := readResults(se.out.String())[step]; got != "ETIMEDOUT" {
					t.Errorf("%s", got)
				}
				// Two minutes are what a network waits that nobody has told otherwise.
				if took := time.Since(start); took > 4*inPod+time.Minute {
					t.Errorf("it took %v, in the pod %v", took, inPod)
				}
			})
		}
	}
}
