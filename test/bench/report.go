package main

import (
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Report is what a run has found.
type Report struct {
	Time       time.Time `json:"time"`
	Command    string    `json:"command"`
	Kernel     string    `json:"kernel"`
	CPUs       int       `json:"cpus"`
	Kubernetes string    `json:"kubernetes"`
	// Rows are the measurements, in their order.
	Rows []*Row `json:"measurements"`
	// TimeWait is how many sockets were in TIME_WAIT before each round.
	TimeWait []int `json:"timeWait"`
	// Stuck is how often kubectl port-forward stopped working and was started again.
	Stuck  int      `json:"portForwardStuck"`
	Memory []Memory `json:"memory"`
	Starts []Start  `json:"starts"`
	// Crowd is nil when it was not measured.
	Crowd *Crowd `json:"crowd,omitempty"`
	// Files and Load are empty when they were not measured.
	Files []*FileCost `json:"files,omitempty"`
	Load  *Load       `json:"load,omitempty"`
}

// Row is one measurement of all sides.
type Row struct {
	Name string `json:"name"`
	// Aim is the least ratio of a session to kubectl port-forward, 0 for none.
	Aim float64 `json:"aim,omitempty"`
	// OperatorAim is the same for sessions through the operator.
	OperatorAim float64 `json:"operatorAim,omitempty"`
	Sides       []*Side `json:"sides"`

	bulk bool
}

// Side is what one way to a server gave in one measurement, over the rounds.
type Side struct {
	Name string `json:"name"`
	// Rates are connections, requests, or bytes a second.
	Rates []float64 `json:"rates"`
	// Latencies are the medians for one connection or request, in seconds.
	Latencies []float64 `json:"latencies,omitempty"`
	// Direct and Forward are the medians of the ratios, round by round, to direct
	// connections and to kubectl port-forward.
	Direct  float64 `json:"ratioToDirect"`
	Forward float64 `json:"ratioToPortForward"`
	// CPU is the CPU time for one connection, request or MiB, in microseconds, by group of programs. Unlike the
	// rates, it says something on a machine that does other things too.
	CPU map[string]float64 `json:"cpu"`

	count float64
	used  cpuTime
}

// Memory is what a client needed, in MiB.
type Memory struct {
	Name string `json:"name"`
	// Traffic is its peak in all measurements, Held its peak while it opened and held
	// connections, each of which had carried data.
	Traffic     float64 `json:"peakInTraffic"`
	Held        float64 `json:"peakWithConnections"`
	Connections int     `json:"connections"`
	// Seconds that opening them and a first exchange over each took.
	Seconds float64 `json:"seconds"`
}

// Crowd is what many sessions of the operator at once need of it and of their agent, for each of them.
type Crowd struct {
	Sessions int `json:"sessions"`
	// Lost are those that failed.
	Lost int `json:"lost"`
	// Memory is in MiB, by group of programs.
	Memory map[string]float64 `json:"memory"`
	// StartCPU is the CPU time of a start, and MinuteCPU that of a minute of a session that says a line every
	// 5 seconds, both in milliseconds and by group.
	StartCPU  map[string]float64 `json:"startCPU"`
	MinuteCPU map[string]float64 `json:"minuteCPU"`
	// Slowest is how long the slowest took to start, with 8 at a time, in seconds.
	Slowest float64 `json:"slowest"`
}

// Start is how long a session takes to start, in seconds; medians.
type Start struct {
	// Name is empty for this checkout's build.
	Name string `json:"name,omitempty"`
	// Total is from the start of the command to the first instruction of its process, and
	// Bare the same without a session.
	Total float64 `json:"total"`
	Bare  float64 `json:"bare"`
	// Parts by name, as they are in the command's progress, in their Order.
	Parts map[string]float64 `json:"parts"`
	Order []string           `json:"order"`
	// Aim is what Total has to stay below, 0 for none.
	Aim float64 `json:"aim,omitempty"`

	totals, bare []float64
}

// add notes a value and computes the ratios again.
func (r *Report) add(m measurement, side string, v value) {
	i := slices.IndexFunc(r.Rows, func(row *Row) bool { return row.Name == m.name })
	if i < 0 {
		i = len(r.Rows)
		r.Rows = append(r.Rows, &Row{Name: m.name, Aim: m.aim, OperatorAim: m.operatorAim, bulk: v.latency == 0})
	}
	row := r.Rows[i]
	sd := row.side(side)
	if sd == nil {
		sd = &Side{Name: side, CPU: map[string]float64{}, used: cpuTime{}}
		row.Sides = append(row.Sides, sd)
	}
	sd.Rates = append(sd.Rates, v.rate)
	if v.latency > 0 {
		sd.Latencies = append(sd.Latencies, v.latency)
	}
	sd.count += v.count
	for group, seconds := range v.cpu {
		sd.used[group] += seconds
		sd.CPU[group] = sd.used[group] / sd.count * 1e6
	}
	for _, sd := range row.Sides {
		sd.Direct = ratio(sd.Rates, row.side(direct))
		sd.Forward = ratio(sd.Rates, row.side(kubectl))
	}
}

func (row *Row) side(name string) *Side {
	for _, sd := range row.Sides {
		if sd.Name == name {
			return sd
		}
	}
	return nil
}

// ratio is the median of the ratios of the rounds for which both have a result.
func ratio(rates []float64, to *Side) float64 {
	if to == nil {
		return 0
	}
	return median(ratios(rates, to.Rates))
}

func median(all []float64) float64 {
	if len(all) == 0 {
		return 0
	}
	all = slices.Sorted(slices.Values(all))
	if n := len(all); n%2 == 0 {
		return (all[n/2-1] + all[n/2]) / 2
	}
	return all[len(all)/2]
}

// Missed lists the aims that this checkout's build does not reach.
func (r *Report) Missed() (missed []string) {
	for _, row := range r.Rows {
		for _, sd := range row.ordered() {
			aim := map[string]float64{
				outgoing: row.Aim, stolen: row.Aim, viaOperator + outgoing: row.OperatorAim, viaOperator + stolen: row.OperatorAim,
			}[sd.Name]
			if sd.Forward < aim {
				missed = append(missed, fmt.Sprintf("%s, %s: %.2f times kubectl port-forward, not %.2g", row.Name, sd.Name, sd.Forward, aim))
			}
			if sd.Name == idle && sd.Direct < minIdle {
				missed = append(missed, fmt.Sprintf("%s, %s: %.2f times direct, not %.2g", row.Name, sd.Name, sd.Direct, minIdle))
			}
		}
	}
	for _, m := range r.Memory {
		if name := strings.TrimPrefix(m.Name, viaOperator); (name == outgoing || name == stolen) && m.Held >= maxMemory {
			missed = append(missed, fmt.Sprintf("memory with %d connections, %s: %.0f MiB, not less than %d", m.Connections, m.Name, m.Held, maxMemory))
		}
	}
	for _, s := range r.Starts {
		if s.Aim > 0 && s.Total >= s.Aim {
			missed = append(missed, fmt.Sprintf("start, %s: %s, not less than %s", s.Name, milliseconds(s.Total), milliseconds(s.Aim)))
		}
	}
	if c := r.Crowd; c != nil {
		for _, group := range []string{operatorCPU, agentCPU} {
			if c.Memory[group] >= maxSession {
				missed = append(missed, fmt.Sprintf("memory of the %s for each of %d sessions: %.2f MiB, not less than %.2g", group, c.Sessions, c.Memory[group], maxSession))
			}
		}
		if c.Lost > 0 {
			missed = append(missed, fmt.Sprintf("%d of %d sessions were lost", c.Lost, c.Sessions))
		}
	}
	if r.Load != nil {
		missed = append(missed, r.Load.missed()...)
	}
	return missed
}

// Table is the report for people.
func (r *Report) Table() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s  %s, %d CPUs, Kubernetes %s: %s\n\n", r.Time.Format(time.RFC3339), r.Kernel, r.CPUs, r.Kubernetes, r.Command)
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	if len(r.Rows) > 0 {
		r.ratios(w)
		fmt.Fprintln(w)
		r.absolute(w)
		fmt.Fprintln(w)
		r.cpu(w)
		fmt.Fprintf(w, "\nsockets in TIME_WAIT before each round: %s\n", strings.Trim(fmt.Sprint(r.TimeWait), "[]"))
		if r.Stuck > 0 {
			fmt.Fprintf(w, "times that kubectl port-forward stopped working and was started again: %d\n", r.Stuck)
		}
	}
	if len(r.Memory) > 0 {
		fmt.Fprintln(w, "\nmemory of the client, MiB\tpeak in traffic\tpeak with connections\tthey took")
		for _, m := range r.Memory {
			fmt.Fprintf(w, "%s\t%.0f\t%.0f with %d\t%.2f s\n", m.Name, m.Traffic, m.Held, m.Connections, m.Seconds)
		}
	}
	for _, s := range r.Starts {
		fmt.Fprintf(w, "\nfrom the command to the first instruction of its process%s\t%s\n", in(s.Name), milliseconds(s.Total))
		for _, name := range s.Order {
			fmt.Fprintf(w, "  %s\t%s\n", name, milliseconds(s.Parts[name]))
		}
		fmt.Fprintf(w, "  (the same process without a session)\t%s\n", milliseconds(s.Bare))
	}
	if c := r.Crowd; c != nil {
		fmt.Fprintf(w, "\nfor each of %d sessions at once, %d lost\toperator\tagent\n", c.Sessions, c.Lost)
		fmt.Fprintf(w, "memory, MiB\t%.2f\t%.2f\n", c.Memory[operatorCPU], c.Memory[agentCPU])
		fmt.Fprintf(w, "CPU time of its start, ms (the slowest took %s)\t%.1f\t%.1f\n", milliseconds(c.Slowest), c.StartCPU[operatorCPU], c.StartCPU[agentCPU])
		fmt.Fprintf(w, "CPU time of a minute, ms\t%.1f\t%.1f\n", c.MinuteCPU[operatorCPU], c.MinuteCPU[agentCPU])
	}
	if len(r.Files) > 0 {
		r.files(w)
	}
	if r.Load != nil {
		r.Load.table(w)
	}
	_ = w.Flush() // into memory
	return b.String()
}

func in(build string) string {
	if build == "" {
		return ""
	}
	return " (" + build + ")"
}

func (r *Report) ratios(w *tabwriter.Writer) {
	fmt.Fprint(w, "ratio to direct (to port-forward)")
	for _, sd := range r.Rows[0].ordered()[1:] {
		fmt.Fprintf(w, "\t%s", sd.Name)
	}
	fmt.Fprintln(w, "\taim")
	for _, row := range r.Rows {
		fmt.Fprint(w, row.Name)
		for _, of := range r.Rows[0].ordered()[1:] {
			sd := row.side(of.Name)
			switch {
			case sd == nil:
				fmt.Fprint(w, "\t")
			case sd.Name == kubectl || sd.Name == idle:
				fmt.Fprintf(w, "\t%.3f", sd.Direct)
			default:
				fmt.Fprintf(w, "\t%.3f (%.2f)", sd.Direct, sd.Forward)
			}
		}
		fmt.Fprintf(w, "\t(%.2g, operator %.2g)\n", row.Aim, row.OperatorAim)
	}
}

// cpu is a table of CPU times.
func (r *Report) cpu(w *tabwriter.Writer) {
	fmt.Fprintf(w, "CPU time, µs\t%s\n", strings.Join(cpuGroups, "\t"))
	for _, row := range r.Rows {
		per := "a connection or request"
		if row.bulk {
			per = "a MiB"
		}
		fmt.Fprintf(w, "%s, for %s\n", row.Name, per)
		for _, sd := range row.ordered() {
			fmt.Fprintf(w, "  %s", sd.Name)
			for _, group := range cpuGroups {
				fmt.Fprintf(w, "\t%.0f", sd.CPU[group])
			}
			fmt.Fprintln(w)
		}
	}
}

func (r *Report) absolute(w *tabwriter.Writer) {
	fmt.Fprint(w, "medians")
	for _, sd := range r.Rows[0].ordered() {
		fmt.Fprintf(w, "\t%s", sd.Name)
	}
	fmt.Fprintln(w)
	for _, row := range r.Rows {
		fmt.Fprint(w, row.Name)
		for _, of := range r.Rows[0].ordered() {
			sd := row.side(of.Name)
			if sd == nil {
				fmt.Fprint(w, "\t")
				continue
			}
			if row.bulk {
				fmt.Fprintf(w, "\t%.0f MiB/s", median(sd.Rates)/mib)
			} else {
				fmt.Fprintf(w, "\t%.0f, p50 %s", median(sd.Rates), milliseconds(median(sd.Latencies)))
			}
		}
		fmt.Fprintln(w)
	}
}

// ordered are the sides in the order of the table: direct, kubectl, and the sessions as they
// were started.
func (row *Row) ordered() []*Side {
	rank := func(sd *Side) int {
		order := []string{direct, kubectl, outgoing, stolen, viaOperator + outgoing, viaOperator + stolen}
		if i := slices.Index(order, sd.Name); i >= 0 {
			return i
		}
		return len(order)
	}
	return slices.SortedStableFunc(slices.Values(row.Sides), func(a, b *Side) int {
		if d := rank(a) - rank(b); d != 0 {
			return d
		}
		return strings.Compare(a.Name, b.Name)
	})
}

func milliseconds(s float64) string {
	if s < 0.01 {
		return fmt.Sprintf("%.2f ms", s*1000)
	}
	return fmt.Sprintf("%.0f ms", s*1000)
}

// phase is a part of a start.
type phase struct {
	name    string
	seconds float64
}
