package local_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mirrord-go/mirrord/internal/agent/announce"
	"github.com/mirrord-go/mirrord/internal/session/local"
	"github.com/mirrord-go/mirrord/internal/tunnel"
)

// TestMain is also the agent that the tests start.
func TestMain(m *testing.M) {
	if mode := os.Getenv("TEST_AGENT"); mode != "" {
		agent(mode)
		return
	}
	goleak.VerifyTestMain(m)
}

func agent(mode string) {
	fmt.Println("some log line")
	fmt.Println(strings.Repeat("x", 200<<10))
	switch mode {
	case "error":
		_ = announce.Write(os.Stdout, announce.Announcement{Error: "no such pod"})
	case "exit":
		os.Exit(3)
	case "silent":
		_, _ = bufio.NewReader(os.Stdin).ReadByte()
	case "serve", "stay":
		id, err := tunnel.NewIdentity()
		if err != nil {
			panic(err)
		}
		l, err := net.Listen("unix", os.Getenv("TEST_SOCKET"))
		if err != nil {
			panic(err)
		}
		fp := id.Fingerprint()
		_ = announce.Write(os.Stdout, announce.Announcement{Address: l.Addr().String(), Key: &fp})
		fmt.Println("more output")
		c, err := l.Accept()
		if err != nil {
			panic(err)
		}
		_, _ = c.Write([]byte("hello"))
		if mode == "stay" {
			select {}
		}
	}
}

func command(t *testing.T, mode string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "TEST_AGENT="+mode, "TEST_SOCKET="+filepath.Join(t.TempDir(), "s"))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = in.Close() })
	return cmd
}

func TestServe(t *testing.T) {
	for _, mode := range []string{"serve", "stay"} {
		t.Run(mode, func(t *testing.T) {
			cmd := command(t, mode)
			a, err := local.Start(t.Context(), cmd)
			if err != nil {
				t.Fatal(err)
			}
			c, err := a.Dial(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if s, err := bufio.NewReader(c).ReadString('o'); s != "hello" || err != nil {
				t.Errorf("read %q, %v", s, err)
			}
			if a.Key() == (tunnel.Fingerprint{}) {
				t.Error("no key")
			}
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			if err := a.Close(ctx); err != nil {
				t.Error(err)
			}
			if cmd.ProcessState == nil {
				t.Error("the agent still runs")
			}
		})
	}
}

func TestNotReady(t *testing.T) {
	for mode, want := range map[string]string{"error": "no such pod", "exit": "exit status 3"} {
		t.Run(mode, func(t *testing.T) {
			if _, err := local.Start(t.Context(), command(t, mode)); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("error %v, want %q in it", err, want)
			}
		})
	}
	t.Run("silent", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if _, err := local.Start(ctx, command(t, "silent")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v, want the deadline", err)
		}
	})
	t.Run("no program", func(t *testing.T) {
		if _, err := local.Start(t.Context(), exec.Command("/does/not/exist")); err == nil {
			t.Error("no error")
		}
	})
}
