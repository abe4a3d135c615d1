// Loader is the program that the benchmark measures with; see package load.
//
//	loader serve -tcp :7000 -http :7001
//	loader client     reads a job a line on standard input and writes a result a line
//	loader clock      writes the time at which it began, in nanoseconds since 1970
package main

import (
	"fmt"
	"os"
	"time"

	"github.com/mirrord-go/mirrord/test/bench/load"
)

func main() {
	began := time.Now()
	if len(os.Args) < 2 {
		usage()
	}
	var err error
	switch os.Args[1] {
	case "serve":
		err = load.Serve(os.Args[2:], os.Stdout)
	case "client":
		err = load.Client(os.Stdin, os.Stdout)
	case "clock":
		fmt.Println(began.UnixNano())
	default:
		usage()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "loader:", err)
		os.Exit(1)
	}
}

func usage() {
	fmt.Fprintln(os.Stderr, "usage: loader serve|client|clock")
	os.Exit(2)
}
