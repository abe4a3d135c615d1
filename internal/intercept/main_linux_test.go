//go:build amd64 || arm64

package intercept

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/mirrord-go/mirrord/internal/fsmount"
)

// Roles of the test binary, chosen by the environment variable roleVar.
const (
	roleVar        = "INTERCEPT_TEST_ROLE"
	dirVar         = "INTERCEPT_TEST_DIR" // where the test programs are built
	roleTests      = "tests"              // the tests, in a network namespace of their own
	roleChecker    = "checker"            // check what is possible
	roleSupervisor = "supervisor"         // start a program, for tests that kill the supervisor
)

// withoutNamespace says why the tests that send traffic can't run. The addresses that stand
// for the target have no route in a namespace of our own, so that nothing leaves the machine
// when interception fails.
var withoutNamespace string

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == fsmount.Command {
		if err := fsmount.Holder(); err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	switch os.Getenv(roleVar) {
	case roleSupervisor:
		os.Exit(superviseMain())
	case roleChecker:
		fmt.Println(Check())
		os.Exit(0)
	case roleTests:
		if err := setUpNamespace(); err != nil {
			fmt.Fprintln(os.Stderr, "set up the network namespace:", err)
			os.Exit(1)
		}
		goleak.VerifyTestMain(m)
	default:
		dir, err := os.MkdirTemp("", "intercept-")
		if err == nil {
			err = os.Setenv(dirVar, dir)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		code, err := runInNamespace()
		if err != nil {
			withoutNamespace = fmt.Sprintf("needs a network namespace of its own (root or user namespaces): %v", err)
			code = m.Run()
		}
		_ = os.RemoveAll(dir)
		os.Exit(code)
	}
}

// runInNamespace runs this binary again in a new network namespace.
func runInNamespace() (int, error) {
	cmd := exec.Command(os.Args[0], os.Args[1:]...)
	cmd.Env = append(os.Environ(), roleVar+"="+roleTests)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: os.Geteuid(), HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getegid(), HostID: os.Getegid(), Size: 1}}
		cmd.SysProcAttr.AmbientCaps = []uintptr{unix.CAP_NET_ADMIN}
	}
	signal.Notify(make(chan os.Signal, 1), syscall.SIGINT, syscall.SIGQUIT) // the inner run decides
	err := cmd.Run()
	var exit *exec.ExitError
	if err == nil || errors.As(err, &exit) {
		return cmd.ProcessState.ExitCode(), nil
	}
	return 0, err
}

// laptopAddr is an address of the machine other than loopback.
const laptopAddr = "192.0.2.5"

// setUpNamespace brings up loopback, with a second address.
func setUpNamespace() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	alias, err := unix.NewIfreq("lo:0")
	if err != nil {
		return err
	}
	if err := alias.SetInet4Addr([]byte{192, 0, 2, 5}); err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFADDR, alias); err != nil {
		return fmt.Errorf("address: %w", err)
	}
	for _, name := range []string{"lo", "lo:0"} {
		up, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		up.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
		if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, up); err != nil {
			return fmt.Errorf("%s up: %w", name, err)
		}
	}
	return nil
}

// needNamespace skips a test that sends traffic when it would leave the namespace.
func needNamespace(t *testing.T) {
	t.Helper()
	if withoutNamespace != "" {
		t.Skip(withoutNamespace)
	}
}

// needTool returns the path of an installed program, or skips.
func needTool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed", name)
	}
	return path
}

// built compiles each test program once.
var built sync.Map

type buildResult struct {
	once sync.Once
	path string
	err  error
}

// build runs a compiler whose output file is the last argument.
func build(t *testing.T, name string, argv ...string) string {
	t.Helper()
	needTool(t, argv[0])
	v, _ := built.LoadOrStore(name, new(buildResult))
	r := v.(*buildResult)
	r.once.Do(func() {
		r.path = filepath.Join(os.Getenv(dirVar), name)
		cmd := exec.Command(argv[0], append(argv[1:], r.path)...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			r.err = fmt.Errorf("%s: %w\n%s", strings.Join(argv, " "), err, out)
		}
	})
	if r.err != nil {
		t.Fatal(r.err)
	}
	return r.path
}
