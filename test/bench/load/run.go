package load

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"time"
)

// run takes the time of a program, from its start to its end.
func (j Job) run() (Result, error) {
	if len(j.Command) == 0 {
		return Result{}, errors.New("no program to run")
	}
	ctx, cancel := context.WithTimeout(context.Background(), j.Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, j.Command[0], j.Command[1:]...)
	cmd.WaitDelay = time.Second // what it started may hold its output open
	var out lineCount
	var errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	began := time.Now()
	err := cmd.Run()
	r := Result{Count: int(out), Seconds: time.Since(began).Seconds()}
	if err != nil {
		return r, fmt.Errorf("%q: %w\n%s", j.Command, err, tail(errs.Bytes()))
	}
	return r, nil
}

// lineCount counts the lines that are written to it.
type lineCount int

// Write implements io.Writer.
func (n *lineCount) Write(b []byte) (int, error) {
	*n += lineCount(bytes.Count(b, []byte("\n")))
	return len(b), nil
}

// tail is the end of what a program had to say.
func tail(b []byte) []byte {
	const most = 2000
	return b[max(0, len(b)-most):]
}
