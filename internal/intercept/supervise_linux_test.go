//go:build amd64 || arm64

package intercept

import (
	"context"
	"fmt"
	"log/slog"
	"os"
)

// superviseMain runs the program in the arguments, for tests that kill its supervisor.
func superviseMain() int {
	p, err := Start(context.Background(), slog.New(slog.DiscardHandler), Options{
		Path: os.Args[1], Args: os.Args[1:], Env: os.Environ(),
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		Network: &fakeTarget{},
	})
	if err != nil {
		fmt.Println("start:", err)
		return 1
	}
	defer p.Close()
	state, err := p.Wait()
	if err != nil {
		return 1
	}
	return state.ExitCode()
}
