package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"
)

// Load is what a steady stream of requests met.
type Load struct {
	Unmarked Latency `json:"unmarked"`
	Marked   Latency `json:"marked"`
	// Failures are up to ten of those requests that failed, or were answered by somebody else than all others of their kind.
	Failures []string `json:"failures,omitempty"`
}

// Latency is about one kind of requests. Times run from when a request was due, so that one that had to wait for its turn
// counts as slow (no coordinated omission).
type Latency struct {
	Requests int            `json:"requests"`
	Failed   int            `json:"failed"`
	By       map[string]int `json:"by"` // who answered how many
	P50      float64        `json:"p50"`
	P99      float64        `json:"p99"` // milliseconds
	times    []time.Duration
}

func (l *Latency) finish() {
	slices.Sort(l.times)
	at := func(share float64) float64 {
		if len(l.times) == 0 {
			return 0
		}
		return float64(l.times[int(share*float64(len(l.times)-1))].Microseconds()) / 1000
	}
	l.P50, l.P99 = at(0.5), at(0.99)
}

// load sends requests at a steady rate over kept-alive connections; some of them carry a header.
func load(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("load", flag.ContinueOnError)
	rate := flags.Int("rate", 1000, "requests per second")
	duration := flags.Duration("for", 5*time.Second, "how long")
	connections := flags.Int("connections", 32, "kept alive, each used by one request at a time")
	header := flags.String("header", "X-Marked: yes", "what marks a request")
	every := flags.Int("every", 10, "one request of so many is marked; 0 marks none")
	if err := parse(flags, args, 1); err != nil {
		return err
	}
	if *rate < 1 || *connections < 1 {
		return fmt.Errorf("%w: -rate and -connections are at least 1", errUsage)
	}
	total := int(duration.Seconds() * float64(*rate))
	var (
		mu     sync.Mutex
		result Load
		wg     sync.WaitGroup
	)
	result.Marked.By, result.Unmarked.By = map[string]int{}, map[string]int{}
	start := time.Now()
	due := func(i int) time.Time { return start.Add(time.Duration(i) * time.Second / time.Duration(*rate)) }
	next := make(chan int)
	for range *connections {
		wg.Go(func() {
			client := newHTTPClient(true, 30*time.Second)
			defer client.http.CloseIdleConnections()
			for i := range next {
				kind, headers := &result.Unmarked, []string(nil)
				if *every > 0 && i%*every == 0 {
					kind, headers = &result.Marked, []string{*header}
				}
				a := client.do(ctx, "GET", flags.Arg(0), headers, "")
				took := time.Since(due(i))
				mu.Lock()
				kind.Requests++
				kind.times = append(kind.times, took)
				if a.Error != "" || a.Echo == nil {
					kind.Failed++
					if len(result.Failures) < 10 {
						result.Failures = append(result.Failures, fmt.Sprintf("request %d after %s: %d %s %.80s", i, time.Since(start), a.Status, a.Error, a.Body))
					}
				} else {
					kind.By[a.Echo.Name]++
				}
				mu.Unlock()
			}
		})
	}
	for i := 0; i < total && ctx.Err() == nil; i++ {
		select {
		case <-ctx.Done():
		case <-time.After(time.Until(due(i))):
			next <- i
		}
	}
	close(next)
	wg.Wait()
	result.Marked.finish()
	result.Unmarked.finish()
	if err := report(out, result); err != nil {
		return err
	}
	if failed := result.Marked.Failed + result.Unmarked.Failed; failed > 0 {
		return fmt.Errorf("%d requests failed", failed)
	}
	return nil
}
