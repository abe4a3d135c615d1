package main

import (
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func sampleFiles() []*FileCost {
	c := &FileCost{Name: "files: a program"}
	for _, round := range []float64{1, 2} {
		c.add("", 0.01*round)
		c.add(ownFiles, 0.012*round)
		c.add(targetFiles, 0.05*round)
		c.add(viaOperator+targetFiles, 0.2)
	}
	return []*FileCost{c}
}

// sampleLoad has a filter that misses its aim, and a mirror that does not.
func sampleLoad() *Load {
	l := &Load{Rate: 1000, Seconds: 3}
	noise, steal, copied := l.steady(steadyName(again)), l.steady(steadyName(filtered)), l.steady(steadyName(mirrored))
	other := l.steady("other " + steadyName(filtered))
	for _, p99 := range []float64{2, 4} {
		var r stream
		r.Unmarked.Requests, r.Unmarked.P50, r.Unmarked.P99, r.used = 2700, 0.5, p99, cpuTime{loadCPU: 0.54}
		l.add(r)
		r.used = cpuTime{loadCPU: 0.54, agentCPU: 0.27 * p99}
		steal.cost.add(r)
		noise.p50, noise.p99 = append(noise.p50, 0.5), append(noise.p99, 2.5)
		steal.p50, steal.p99 = append(steal.p50, 0.6), append(steal.p99, 1.5*p99)
		copied.p50, copied.p99 = append(copied.p50, 0.5), append(copied.p99, 1.2*p99)
		other.p50, other.p99 = append(other.p50, 1), append(other.p99, 3*p99)
	}
	for _, w := range l.Ways {
		w.Requests = 6000
		l.compare(w)
	}
	steal.Failed, other.Failed = 2, 7
	copied.Mirror = &Copies{Copied: 5999, Told: true}
	return l
}

func TestFileCost(t *testing.T) {
	c := sampleFiles()[0]
	want := map[string]float64{ownFiles: 1.2, targetFiles: 5, viaOperator + targetFiles: 15}
	got := map[string]float64{}
	for _, w := range c.Ways {
		got[w.Name] = w.Ratio
	}
	near := cmp.Comparer(func(a, b float64) bool { return a-b < 1e-9 && b-a < 1e-9 })
	if diff := cmp.Diff(want, got, near); diff != "" {
		t.Errorf("ratios (-want +got):\n%s", diff)
	}
}

// Only this checkout's sessions have aims. A mirror may differ from no session as much as that does from itself.
func TestLoadMissed(t *testing.T) {
	l := sampleLoad()
	want := []string{
		"load: filtered steal: a 99th percentile of 1.50 times that without a session, not 1.3",
		"load: filtered steal: 2 of 6000 requests failed",
	}
	if diff := cmp.Diff(want, l.missed()); diff != "" {
		t.Errorf("missed (-want +got):\n%s", diff)
	}
	if l.Noise != 1.6 {
		t.Errorf("noise %v, want 4/2.5", l.Noise)
	}
	l.Noise = 1.1
	mirror := l.Ways[2]
	mirror.Mirror.Told = false
	want = append(want,
		"load: mirror: a 99th percentile of 1.20 times that without a session, where that differs by 1.10",
		"load: mirror: 5999 of 6000 requests were copied, and nobody was told",
	)
	if diff := cmp.Diff(want, l.missed()); diff != "" {
		t.Errorf("missed (-want +got):\n%s", diff)
	}
}

// A round notes who answered: a request that somebody else answered has failed, and so has one without an answer.
func TestTake(t *testing.T) {
	var r stream
	r.Unmarked.Requests, r.Unmarked.By, r.Unmarked.P50, r.Unmarked.P99 = 90, map[string]int{filtered: 88, laptopName: 1}, 1, 2
	r.Marked.Requests, r.Marked.By = 10, map[string]int{laptopName: 10}
	w := &steadyWay{Steady: &Steady{}, load: filtered}
	w.take(nil, r)
	if w.Requests != 100 || w.Failed != 2 || len(w.p99) != 1 || w.p99[0] != 2 {
		t.Errorf("%+v", w.Steady)
	}
	w = &steadyWay{Steady: &Steady{}, load: plain}
	r.Unmarked.By, r.Marked.By = map[string]int{plain: 90}, map[string]int{plain: 10}
	if w.take(nil, r); w.Requests != 100 || w.Failed != 0 {
		t.Errorf("%+v", w.Steady)
	}
}

func TestWarned(t *testing.T) {
	l := &lines{}
	_, _ = l.Write([]byte("not JSON\n" + `{"event":"notice","level":"warning","port":7300,"text":"a gap"}` + "\n" + `{"event":"notice","level":"info","port":7301}` + "\n"))
	if !l.warned(7300) || l.warned(7301) || l.warned(7302) {
		t.Errorf("of port 7300, 7301, 7302: %v, %v, %v", l.warned(7300), l.warned(7301), l.warned(7302))
	}
}

// The programs read all of their files, where this machine has them.
func TestFilePrograms(t *testing.T) {
	for _, p := range filePrograms("") {
		t.Run(p.name, func(t *testing.T) {
			if tool := p.missing(); tool != "" {
				t.Skipf("there is no %s", tool)
			}
			if slices.Contains(p.tools, "javac") {
				t.Skip("compiling takes longer than what else is tested here; the benchmark fails when this program does")
			}
			dir, out := t.TempDir(), t.TempDir()
			if err := p.tree(dir); err != nil {
				t.Fatal(err)
			}
			command := p.command(dir, out)
			text, err := exec.Command(command[0], command[1:]...).Output()
			if err != nil {
				t.Fatalf("%q: %v", command, err)
			}
			if n := strings.Count(string(text), "\n"); n != p.lines {
				t.Errorf("it wrote %d lines, want %d", n, p.lines)
			}
			if p.name != "files: make, 20 sources of C" {
				return
			}
			if text, err := exec.Command(filepath.Join(out, "program")).Output(); err != nil || string(text) != "built\n" {
				t.Errorf("what was built says %q, %v", text, err)
			}
		})
	}
}

// -only chooses among all that is measured.
func TestOnly(t *testing.T) {
	for only, want := range map[string]int{"files": 5, "load": 2, "load: mirror": 1, "HTTP": 2, "nothing": 0} {
		if got := names(only); len(got) != want {
			t.Errorf("%q: %q, want %d", only, got, want)
		}
	}
}
