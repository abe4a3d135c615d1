package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mirrord-go/mirrord/test/bench/load"
)

// measurement is one row of the table.
type measurement struct {
	name string
	job  load.Job
	aim  float64 // times kubectl port-forward; 0 is none
	// operatorAim is the same for sessions whose carrier is the operator's.
	operatorAim float64
	// idle says that it is made as well with the target's own port, beside a session that takes others.
	idle bool
}

const (
	mib = 1 << 20
	// Connects of a direct round take a fraction of their time, so that few sockets stay in
	// TIME_WAIT.
	maxConnects1, maxConnects16 = 800, 1000
	repeatFor                   = 500 * time.Millisecond
	// maxTimeWait is how many sockets may be in TIME_WAIT before a round: far fewer than the
	// 14,000 past which connects of this machine become many times slower.
	maxTimeWait = 8000
	// A bulk transfer is as long as takes about bulkTime.
	bulkTime         = time.Second
	minBulk, maxBulk = 8 * mib, 1024 * mib
	// holdConnections are open at once when memory is measured.
	holdConnections = 1000
	// maxMemory is the aim for the client's memory then, in MiB.
	maxMemory = 64
	// minIdle is the aim for a port that no session takes, times direct: its full rate, as far as that can be told.
	minIdle = 0.9
	// maxWarm and maxCold are the aims for the start through the operator, in seconds, with an agent on the
	// node and without.
	maxWarm, maxCold = 0.2, 2
	// maxSession is the aim for the memory of the operator, and of the agent, for each session, in MiB.
	maxSession = 0.5
)

func measurements(only string) (ms []measurement) {
	for _, m := range []measurement{
		{"connections/s, 1 client", load.Job{Kind: load.Connect, Clients: 1, For: repeatFor, Max: maxConnects1}, 3, 4, false},
		{"connections/s, 16 clients", load.Job{Kind: load.Connect, Clients: 16, For: repeatFor, Max: maxConnects16}, 3, 4, true},
		{"connections/s, 64 clients", load.Job{Kind: load.Connect, Clients: 64, For: repeatFor, Max: maxConnects16}, 3, 4, false},
		{"bulk down, 1 connection", load.Job{Kind: load.Down, Clients: 1}, 0.9, 2, false},
		{"bulk down, 8 connections", load.Job{Kind: load.Down, Clients: 8}, 0.9, 2, true},
		{"bulk up, 1 connection", load.Job{Kind: load.Up, Clients: 1}, 0.9, 2, false},
		{"bulk up, 8 connections", load.Job{Kind: load.Up, Clients: 8}, 0.9, 2, false},
		{"HTTP requests/s, 1 client", load.Job{Kind: load.HTTP, Clients: 1, For: repeatFor, Max: 1 << 30}, 1, 1.5, false},
		{"HTTP requests/s, 8 clients", load.Job{Kind: load.HTTP, Clients: 8, For: repeatFor, Max: 1 << 30}, 1, 1.5, true},
	} {
		if strings.Contains(m.name, only) {
			ms = append(ms, m)
		}
	}
	return ms
}

// names are those of all measurements whose name contains only.
func names(only string) (all []string) {
	for _, m := range measurements(only) {
		all = append(all, m.name)
	}
	for _, p := range filePrograms(only) {
		all = append(all, p.name)
	}
	for _, l := range steadyLoads(only) {
		all = append(all, steadyName(l))
	}
	return all
}

// The sides that every run has, and what those of another build's name begin with.
const (
	direct   = "direct"
	kubectl  = "port-forward"
	outgoing = "outgoing"
	stolen   = "stolen"
	// idle is direct to a port of the target that its sessions do not take.
	idle = "port not taken"
	// viaOperator is before the names of sessions whose carrier is sessions/connect.
	viaOperator = "operator "
)

// side is one way to a server.
type side struct {
	name     string
	client   *loadClient
	raw, web string
	session  *session // or nil
	revive   func()   // makes it anew; or nil
	revived  int

	// bytes of a transfer, by measurement.
	bytes map[string]int64
}

// measure makes all measurements.
func measure(t *host, o options) *Report {
	s := newStage(t, o)
	report := newReport(s)
	if ms := measurements(o.only); len(ms) > 0 {
		s.rows(ms, o.rounds, report)
	}
	for _, b := range s.builds {
		if o.starts == 0 {
			break
		}
		report.Starts = append(report.Starts, s.starts(b, false, o.starts))
		if b.operator {
			report.Starts = append(report.Starts, s.starts(b, true, o.starts))
		}
	}
	if o.operator && o.crowd > 0 {
		report.Crowd = s.crowd(o.crowd)
	}
	if ps := filePrograms(o.only); len(ps) > 0 && o.files > 0 {
		report.Files = s.files(ps, o.files)
	}
	if loads := steadyLoads(o.only); len(loads) > 0 && o.load > 0 {
		report.Load = s.steady(loads, o.load)
	}
	return report
}

// rows makes the measurements that all sides have a part in.
func (s *stage) rows(ms []measurement, rounds int, report *Report) {
	t, sides := s.t, s.sides()
	t.Logf("finding out how many bytes to move")
	for _, m := range ms {
		for _, sd := range sides {
			if sd.takes(m) {
				sd.calibrate(m)
			}
		}
	}
	for round := range rounds {
		report.TimeWait = append(report.TimeWait, s.awaitQuiet())
		t.Logf("round %d of %d, %d sockets in TIME_WAIT", round+1, rounds, report.TimeWait[round])
		for i, m := range ms {
			for j := range sides {
				// Nobody is always first, or always behind the same other.
				if round%2 == 1 {
					j = len(sides) - 1 - j
				}
				sd := sides[(i+j+round)%len(sides)]
				if sd.takes(m) {
					report.add(m, sd.name, s.measure(sd, m))
				}
			}
		}
	}
	report.Stuck = sides[1].revived
	s.memory(sides, report)
	for _, sd := range sides {
		if sd.session != nil {
			sd.session.stop()
		}
	}
}

// sides starts all that is compared.
func (s *stage) sides() []*side {
	local := s.localClient()
	s.t.Logf("starting kubectl port-forward")
	forward := &side{name: kubectl, client: local}
	var p *process
	p, forward.raw, forward.web = s.portForward()
	forward.revive = func() {
		p.stop()
		p, forward.raw, forward.web = s.portForward()
	}
	sides := []*side{
		{name: direct, client: local, raw: hostPort(s.server, rawPort), web: hostPort(s.server, webPort)},
		forward,
	}
	for i, b := range s.builds {
		s.t.Logf("starting %ssessions", b.name)
		client, se := s.outgoing(b)
		sides = append(sides, &side{name: b.name + outgoing, client: client, raw: hostPort(s.server, rawPort), web: hostPort(s.server, webPort), session: se})
		port := stolenPort + 2*i
		se = s.stolen(b, port)
		sides = append(sides, &side{name: b.name + stolen, client: local, raw: hostPort(s.target, port), web: hostPort(s.target, port+1), session: se})
	}
	sides = append(sides, &side{name: idle, client: local, raw: hostPort(s.target, rawPort), web: hostPort(s.target, webPort)})
	for _, sd := range sides {
		sd.bytes = map[string]int64{}
	}
	return sides
}

// takes says whether a side has a part in a measurement.
func (sd *side) takes(m measurement) bool { return sd.name != idle || m.idle }

// job fills in where to.
func (sd *side) job(m measurement) load.Job {
	j := m.job
	j.Addr, j.Bytes = sd.raw, sd.bytes[m.name]
	if j.Kind == load.HTTP {
		j.Addr = sd.web
	}
	return j
}

// calibrate does a measurement once, which warms up, and decides how much a transfer moves.
func (sd *side) calibrate(m measurement) {
	if m.job.Kind != load.Down && m.job.Kind != load.Up {
		return
	}
	const first = 16 * mib
	sd.bytes[m.name] = first
	r := sd.do(m)
	sd.bytes[m.name] = min(max(int64(first/r.Seconds*bulkTime.Seconds()), minBulk), maxBulk)
}

// stuck is when kubectl port-forward is taken for stuck. Now and then none of its connections
// makes any progress any more, and no new one either.
const stuck = 10 * time.Second

// do measures, again if need be.
func (sd *side) do(m measurement) load.Result {
	for sd.revive != nil {
		j := sd.job(m)
		j.Patience = stuck
		r := sd.client.try(sd.name, j)
		if r.Error == "" {
			return r
		}
		sd.revived++
		sd.client.t.Logf("%s is started again, for the %d. time: %s", sd.name, sd.revived, firstLine(r.Error))
		if sd.revived > maxRevivals {
			sd.client.t.Fatalf("%s: %s", sd.name, r.Error)
		}
		sd.revive()
	}
	return sd.client.do(sd.name, sd.job(m))
}

// maxRevivals is how often a side may fail in all.
const maxRevivals = 20

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// value is what one measurement of one side gives.
type value struct {
	rate    float64 // connections, requests or bytes a second
	latency float64 // median of one connection or request, in seconds; 0 for transfers
	count   float64 // of connections, requests or MiB
	cpu     cpuTime // that they took
}

func (s *stage) measure(sd *side, m measurement) value {
	j := sd.job(m)
	before := cpuTimes(s.env.Cluster.PID)
	r := sd.do(m)
	used := cpuTimes(s.env.Cluster.PID).since(before)
	if j.Kind == load.Down || j.Kind == load.Up {
		return value{rate: float64(j.Bytes) / r.Seconds, count: float64(j.Bytes) / mib, cpu: used}
	}
	return value{rate: float64(r.Count) / r.Seconds, latency: r.P50, count: float64(r.Count), cpu: used}
}

// awaitQuiet waits until few sockets are in TIME_WAIT and returns their number.
func (s *stage) awaitQuiet() int {
	for said := false; ; said = true {
		n := s.timeWait()
		if n <= maxTimeWait {
			return n
		}
		if !said {
			s.t.Logf("waiting while %d sockets are in TIME_WAIT", n)
		}
		select {
		case <-time.After(time.Second):
		case <-s.t.ctx.Done():
			s.t.Fatalf("interrupted")
		}
	}
}

// timeWait counts the sockets in TIME_WAIT of this machine and of the node.
func (s *stage) timeWait() (n int) {
	for _, file := range []string{"/proc/self/net/sockstat", fmt.Sprintf("/proc/%d/net/sockstat", s.env.Cluster.PID)} {
		b, err := os.ReadFile(file)
		if err != nil {
			continue // another's cluster
		}
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			for i := 0; i+1 < len(f) && f[0] == "TCP:"; i++ {
				if f[i] == "tw" {
					tw, _ := strconv.Atoi(f[i+1])
					n += tw
				}
			}
		}
	}
	return n
}

// memory sees how much the clients have needed so far, and how much with many connections.
func (s *stage) memory(sides []*side, report *Report) {
	s.t.Logf("opening %d connections", holdConnections)
	for _, sd := range sides {
		if sd.session == nil {
			continue
		}
		pid := sd.session.cmd.Process.Pid
		m := Memory{Name: sd.name, Traffic: s.status(pid, "VmHWM"), Connections: holdConnections}
		// The peak begins again: proc_pid_clear_refs(5).
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0); err != nil {
			s.t.Logf("the peak of %s is that of all measurements: %v", sd.name, err)
		}
		r := sd.client.do(sd.name, load.Job{Kind: load.Hold, Addr: sd.raw, Clients: holdConnections})
		m.Seconds = r.Seconds
		m.Held = s.status(pid, "VmHWM")
		sd.client.do(sd.name, load.Job{Kind: load.Release})
		report.Memory = append(report.Memory, m)
	}
}

// status reads a size from /proc/PID/status, in MiB.
func (s *stage) status(pid int, key string) float64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		s.t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, key+":"); ok {
			kib, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(v), " kB"), 64)
			if err != nil {
				s.t.Fatal(err)
			}
			return kib / 1024
		}
	}
	s.t.Fatalf("/proc/%d/status has no %s", pid, key)
	return 0
}

// starts takes the time of sessions, from the start of the command to the first instruction
// of the local process. Those through the operator are warm when their agent is there already; others
// have an agent each.
func (s *stage) starts(b build, warm bool, n int) Start {
	out := Start{Name: strings.TrimSpace(b.name), Parts: map[string]float64{}}
	if b.operator {
		out.Name += map[bool]string{true: ", warm", false: ", cold"}[warm]
		out.Aim = map[bool]float64{true: maxWarm, false: maxCold}[warm]
	}
	s.t.Logf("starting %d sessions for their time: %s", n, cmp.Or(out.Name, "agents of their own"))
	parts := map[string][]float64{}
	for range n {
		if b.operator && !warm {
			s.removeAgents()
		}
		out.bare = append(out.bare, s.clock(nil, s.loader, "clock"))
		l := &lines{}
		total := s.clock(l, s.execArgs(b, s.settings("steal"), s.loader, "clock")...)
		out.totals = append(out.totals, total)
		rest := total
		for _, p := range l.phases() {
			if !slices.Contains(out.Order, p.name) {
				out.Order = append(out.Order, p.name)
			}
			parts[p.name] = append(parts[p.name], p.seconds)
			rest -= p.seconds
		}
		parts[between] = append(parts[between], rest)
	}
	out.Order = append(out.Order, between)
	for name, all := range parts {
		out.Parts[name] = median(all)
	}
	out.Total, out.Bare = median(out.totals), median(out.bare)
	return out
}

// between is what no phase covers: the start of the command, and of the process.
const between = "the rest"

// clock runs something that ends in the loader's clock, and returns how long after its start
// that began.
func (s *stage) clock(errs *lines, args ...string) float64 {
	cmd := exec.CommandContext(s.t.ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+s.env.Kubeconfig)
	if errs != nil {
		cmd.Stderr = errs
	}
	began := time.Now()
	out, err := cmd.Output()
	if err != nil {
		text := ""
		if errs != nil {
			text = "\n" + errs.rest()
		}
		s.t.Fatalf("%v: %v%s", args, err, text)
	}
	ns, err := strconv.ParseInt(string(bytes.TrimSpace(out)), 10, 64)
	if err != nil {
		s.t.Fatal(err)
	}
	return time.Unix(0, ns).Sub(began).Seconds()
}

// environment says where the figures are from.
func environment(s *stage) (kernel, version string) {
	var u unix.Utsname
	if err := unix.Uname(&u); err == nil {
		kernel = unix.ByteSliceToString(u.Sysname[:]) + " " + unix.ByteSliceToString(u.Release[:])
	}
	v, err := s.env.Client.Discovery().ServerVersion()
	if err != nil {
		s.t.Fatal(errors.Join(errors.New("asking the cluster for its version"), err))
	}
	return kernel, v.GitVersion
}

func newReport(s *stage) *Report {
	kernel, version := environment(s)
	return &Report{
		Time: time.Now().UTC().Truncate(time.Second), Kernel: kernel, CPUs: runtime.NumCPU(), Kubernetes: version,
	}
}
