package main

import (
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
)

// FileCost is how long a program that reads many files takes.
type FileCost struct {
	Name string `json:"name"`
	// Bare is without a session, in seconds; a median.
	Bare float64 `json:"withoutSession"`
	// Ways are with one.
	Ways []*FileWay `json:"ways"`

	bare []float64
}

// FileWay is a program in a session: with files of the laptop, or of the target.
type FileWay struct {
	Name string `json:"name"`
	// Seconds that it took, a median; Ratio is that of the ratios of the rounds to the same without a session.
	Seconds float64 `json:"seconds"`
	Ratio   float64 `json:"ratio"`

	all []float64
}

// add notes one run; way is empty without a session. Of each round that is the first.
func (c *FileCost) add(way string, seconds float64) {
	if way == "" {
		c.bare = append(c.bare, seconds)
		c.Bare = median(c.bare)
		return
	}
	i := slices.IndexFunc(c.Ways, func(w *FileWay) bool { return w.Name == way })
	if i < 0 {
		i = len(c.Ways)
		c.Ways = append(c.Ways, &FileWay{Name: way})
	}
	w := c.Ways[i]
	w.all = append(w.all, seconds)
	w.Seconds, w.Ratio = median(w.all), median(ratios(w.all, c.bare))
}

// ratios are those of the rounds for which both have a result.
func ratios(of, to []float64) (all []float64) {
	for i := range min(len(of), len(to)) {
		if to[i] > 0 {
			all = append(all, of[i]/to[i])
		}
	}
	return all
}

// Load is what a steady rate of requests meets: latencies run from when a request was due.
type Load struct {
	// Rate is in requests a second, of which one in ten matches the filter; Seconds is how long each round goes on.
	Rate    int     `json:"rate"`
	Seconds float64 `json:"seconds"`
	// P50 and P99 are without a session, in milliseconds; medians of the rounds.
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
	// Noise is how far the 99th percentile of one round without a session was from another's, at most, as a ratio above 1.
	Noise float64   `json:"noise"`
	Ways  []*Steady `json:"ways"`
	// CPU is as in [Side], for one request.
	CPU map[string]float64 `json:"cpu"`

	p50, p99 []float64
	cost     cost
}

// cost is CPU time that requests took.
type cost struct {
	requests int
	used     cpuTime
}

func (c *cost) add(r stream) {
	if c.used == nil {
		c.used = cpuTime{}
	}
	c.requests += r.requests()
	for group, seconds := range r.used {
		c.used[group] += seconds
	}
}

// each is what one request took, in microseconds.
func (c *cost) each() map[string]float64 {
	all := map[string]float64{}
	for group, seconds := range c.used {
		all[group] = seconds / float64(max(1, c.requests)) * 1e6
	}
	return all
}

// Steady is the same load with a session. Its latencies are of those requests that do not match the filter.
type Steady struct {
	Name string `json:"name"`
	// P50 and P99 are in milliseconds, medians of the rounds; the ratios are the medians of those to the same load without a session.
	P50      float64 `json:"p50"`
	P99      float64 `json:"p99"`
	RatioP50 float64 `json:"ratioP50"`
	RatioP99 float64 `json:"ratioP99"`
	// Requests of all rounds; Failed had no answer, or one by somebody else.
	Requests int `json:"requests"`
	Failed   int `json:"failed"`
	// Mirror is nil for what is no mirror.
	Mirror *Copies `json:"mirror,omitempty"`
	// CPU is as in [Side], for one request.
	CPU map[string]float64 `json:"cpu"`

	p50, p99 []float64
	cost     cost
}

// Copies are the requests that a mirror brought.
type Copies struct {
	Copied int `json:"copied"`
	// Told says that the user was told that copies are not complete.
	Told bool `json:"told"`
}

// add notes a round without a session.
func (l *Load) add(r stream) {
	l.p50, l.p99 = append(l.p50, r.Unmarked.P50), append(l.p99, r.Unmarked.P99)
	l.P50, l.P99 = median(l.p50), median(l.p99)
	l.cost.add(r)
	l.CPU = l.cost.each()
}

// steady adds a way.
func (l *Load) steady(name string) *Steady {
	w := &Steady{Name: name}
	l.Ways = append(l.Ways, w)
	return w
}

// compare computes what a way's rounds come to.
func (l *Load) compare(w *Steady) {
	w.P50, w.P99, w.CPU = median(w.p50), median(w.p99), w.cost.each()
	w.RatioP50, w.RatioP99 = median(ratios(w.p50, l.p50)), median(ratios(w.p99, l.p99))
	if w.Name != steadyName(again) {
		return
	}
	for _, r := range ratios(w.p99, l.p99) {
		l.Noise = max(l.Noise, r, 1/r)
	}
}

// missed lists the aims that this checkout's build does not reach.
func (l *Load) missed() (missed []string) {
	for _, w := range l.Ways {
		switch w.Name {
		case steadyName(filtered):
			if w.RatioP99 > maxFiltered {
				missed = append(missed, fmt.Sprintf("%s: a 99th percentile of %.2f times that without a session, not %.2g", w.Name, w.RatioP99, maxFiltered))
			}
		case steadyName(mirrored):
			if w.RatioP99 > max(1, l.Noise) {
				missed = append(missed, fmt.Sprintf("%s: a 99th percentile of %.2f times that without a session, where that differs by %.2f", w.Name, w.RatioP99, l.Noise))
			}
		default:
			continue
		}
		if w.Failed > 0 {
			missed = append(missed, fmt.Sprintf("%s: %d of %d requests failed", w.Name, w.Failed, w.Requests))
		}
		if m := w.Mirror; m != nil && m.Copied != w.Requests && !m.Told {
			missed = append(missed, fmt.Sprintf("%s: %d of %d requests were copied, and nobody was told", w.Name, m.Copied, w.Requests))
		}
	}
	return missed
}

// files is the table of the cost of files.
func (r *Report) files(w *tabwriter.Writer) {
	fmt.Fprint(w, "\ntimes as long as without a session\twithout a session")
	for _, way := range r.Files[0].Ways {
		fmt.Fprintf(w, "\t%s", way.Name)
	}
	fmt.Fprintln(w)
	for _, c := range r.Files {
		fmt.Fprintf(w, "%s\t%s", c.Name, milliseconds(c.Bare))
		for _, way := range c.Ways {
			fmt.Fprintf(w, "\t%.2f, %s", way.Ratio, milliseconds(way.Seconds))
		}
		fmt.Fprintln(w)
	}
}

// table is the table of the steady load.
func (l *Load) table(w *tabwriter.Writer) {
	fmt.Fprintf(w, "\nratio to the same load without a session: %d requests/s\tp50\tp99\taim for p99\tfailed\tcopied\n", l.Rate)
	fmt.Fprintf(w, "without a session\t%.2f ms\t%.2f ms\n", l.P50, l.P99)
	for _, s := range l.Ways {
		fmt.Fprintf(w, "%s\t%.2f, %.2f ms\t%.2f, %.2f ms", s.Name, s.RatioP50, s.P50, s.RatioP99, s.P99)
		switch s.Name {
		case steadyName(filtered):
			fmt.Fprintf(w, "\t%.2g", maxFiltered)
		case steadyName(mirrored):
			fmt.Fprintf(w, "\t%.2f, as rounds without a session differ", l.Noise)
		default:
			fmt.Fprint(w, "\t")
		}
		fmt.Fprintf(w, "\t%d of %d", s.Failed, s.Requests)
		if m := s.Mirror; m != nil {
			fmt.Fprintf(w, "\t%d", m.Copied)
			if m.Copied != s.Requests && m.Told {
				fmt.Fprint(w, ", and the user was told")
			}
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintf(w, "\nCPU time of a request, µs\t%s\n", strings.Join(cpuGroups, "\t"))
	cpu := func(name string, each map[string]float64) {
		fmt.Fprint(w, name)
		for _, group := range cpuGroups {
			fmt.Fprintf(w, "\t%.0f", each[group])
		}
		fmt.Fprintln(w)
	}
	cpu("without a session", l.CPU)
	for _, s := range l.Ways {
		cpu(s.Name, s.CPU)
	}
}
