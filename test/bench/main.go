// Bench compares a session with kubectl port-forward and with direct connections, on the test cluster:
// connections, bulk transfer, HTTP requests, for what the local process opens and for what is stolen for it; and
// says how long a session takes to start, how much memory it needs, what reading files costs programs, and what a steady load of
// requests meets beside a steal with a filter, and a mirror. Sessions have two carriers: port-forward, and
// sessions/connect of an operator that is installed for the time of the run.
//
// Only ratios from one run mean something, as the machine that runs both ends, the cluster and everything else is the
// bottleneck. So all sides take turns in each measurement, and what is shown is the median of the ratios
// of the rounds.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
)

// options are the flags.
type options struct {
	rounds  int
	output  string
	check   bool
	against string
	only    string
	starts  int
	crowd   int
	// files and load are how many rounds these have.
	files, load int
	// operator says that sessions through the operator take part.
	operator bool
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, stderr)
	if err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	var report *Report
	if err := perform(ctx, stderr, func(t *host) { report = measure(t, o) }); err != nil {
		fmt.Fprintln(stderr, "bench:", err)
		return 1
	}
	report.Command = "make bench"
	if len(args) > 0 {
		report.Command = "hack/bench.sh " + strings.Join(args, " ")
	}
	if o.output == "json" {
		e := json.NewEncoder(stdout)
		e.SetIndent("", "  ")
		err = e.Encode(report)
	} else {
		_, err = io.WriteString(stdout, report.Table())
	}
	if err != nil {
		fmt.Fprintln(stderr, "bench:", err)
		return 1
	}
	if missed := report.Missed(); o.check && len(missed) > 0 {
		fmt.Fprintf(stderr, "bench: %d aims are missed:\n  %s\n", len(missed), strings.Join(missed, "\n  "))
		return 1
	}
	return 0
}

func parse(args []string, stderr io.Writer) (options, error) {
	o := options{rounds: 5}
	if v := os.Getenv("BENCH_ROUNDS"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 {
			err = fmt.Errorf("BENCH_ROUNDS is %q, not a number above 0", v)
			fmt.Fprintln(stderr, "bench:", err)
			return o, err
		}
		o.rounds = n
	}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.IntVar(&o.rounds, "rounds", o.rounds, "how often each measurement is made; the default is $BENCH_ROUNDS, or 5")
	flags.IntVar(&o.starts, "starts", 7, "how many sessions are started to see how long that takes")
	flags.IntVar(&o.crowd, "sessions", 500, "how many sessions at once the operator has when its memory is measured; 0 for none")
	flags.IntVar(&o.files, "files", 2, "how often it is measured what reading files costs programs; 0 for not at all")
	flags.IntVar(&o.load, "load", 5, "how often it is measured what a steady load of requests meets beside a steal with a filter, and a mirror; 0 for not at all")
	flags.BoolVar(&o.operator, "operator", true, "install the operator, and measure sessions through it too")
	flags.StringVar(&o.output, "o", "text", "text or json")
	flags.BoolVar(&o.check, "check", false, "exit with 1 when an aim is missed")
	flags.StringVar(&o.against, "against", "", "folder with another build of mirrord and mirrord-agent, which takes turns with this one")
	flags.StringVar(&o.only, "only", "", "make only the measurements whose name contains this")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	var err error
	switch {
	case flags.NArg() > 0:
		err = fmt.Errorf("unknown argument %q", flags.Arg(0))
	case o.output != "text" && o.output != "json":
		err = fmt.Errorf("unknown output %q: choose text or json", o.output)
	case o.rounds < 1 || o.starts < 0 || o.crowd < 0 || o.files < 0 || o.load < 0:
		err = errors.New("-rounds has to be above 0, and -starts, -sessions, -files and -load not below")
	case len(names(o.only)) == 0:
		err = fmt.Errorf("no measurement's name contains %q; there are: %s", o.only, strings.Join(names(""), "; "))
	}
	if err != nil {
		fmt.Fprintln(stderr, "bench:", err)
	}
	return o, err
}
