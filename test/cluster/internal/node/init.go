package node

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/mirrord-go/mirrord/test/cluster/internal/layout"
)

// Arguments with which the cluster command becomes the processes of the node; each is followed by the path of the Spec.
const (
	InitArgument      = "node-init"
	SuperviseArgument = "node-supervise"
)

// Command returns the node's first process, ready to be started by Start. It runs tool, a copy of this program, in
// namespaces of its own, in a session of its own. It waits for a byte on goAhead and ends when goAhead ends without one:
// a starting command that is killed leaves no node behind. output is its log.
func Command(tool string, l layout.Layout, goAhead, output *os.File) *exec.Cmd {
	cmd := exec.Command(tool, InitArgument, SpecPath(l))
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = nil, output, output
	cmd.ExtraFiles = []*os.File{goAhead}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid:     true,
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWPID,
	}
	return cmd
}

// Init is the main function of the node's first process. It returns when the supervisor has ended, and never otherwise;
// the process has to exit then.
func Init(specPath string) error {
	s, err := ReadSpec(specPath)
	if err != nil {
		return err
	}
	if err := s.prepare(); err != nil {
		return fmt.Errorf("node: %w", err)
	}
	goAhead := os.NewFile(3, "go-ahead")
	_, err = bufio.NewReader(goAhead).ReadByte()
	goAhead.Close()
	if errors.Is(err, io.EOF) {
		return errors.New("node: the command that started this node ended before it had made the network")
	}
	if err != nil {
		return fmt.Errorf("node: %w", err)
	}
	if err := setSysctls(s.Ranges.IPv6); err != nil {
		return fmt.Errorf("node: %w", err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return fmt.Errorf("node: %w", err)
	}
	defer null.Close()
	supervisor, err := os.StartProcess("/proc/self/exe", []string{"cluster", SuperviseArgument, specPath}, &os.ProcAttr{
		Dir: "/", Env: os.Environ(), Files: []*os.File{null, os.Stdout, os.Stderr},
	})
	if err != nil {
		return fmt.Errorf("node: supervisor: %w", err)
	}
	return reap(supervisor.Pid)
}

// reap collects every process that ends, as the first process of a namespace has to, until it is the one of number main.
func reap(main int) error {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("node: wait: %w", err)
		case pid == main:
			return fmt.Errorf("node: the supervisor ended (status %d, signal %d)", status.ExitStatus(), status.Signal())
		}
	}
}

// prepare gives the mount namespace its own view. Nothing of it is seen outside.
func (s Spec) prepare() error {
	// First no longer share mounts with the machine, then share them with the namespaces of pods.
	for _, flags := range []uintptr{unix.MS_REC | unix.MS_PRIVATE, unix.MS_REC | unix.MS_SHARED} {
		if err := unix.Mount("", "/", "", flags, ""); err != nil {
			return fmt.Errorf("mount propagation: %w", err)
		}
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NOEXEC|unix.MS_NODEV, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	for _, dir := range []string{"/var/lib", "/var/log"} {
		own := filepath.Join(s.Layout.Data(), strings.ReplaceAll(dir[1:], "/", "-"))
		if err := os.MkdirAll(own, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(own, dir, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount %s: %w", dir, err)
		}
	}
	if err := s.shieldSysctls(); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(layout.NodeName)); err != nil {
		return fmt.Errorf("hostname: %w", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	return nil
}

// machineSysctls are settings of the whole machine that a kubelet sets to its taste.
var machineSysctls = []string{
	"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
}

// shieldSysctls lays a plain file over each of them, so that the kubelet is content and the machine is left alone.
func (s Spec) shieldSysctls() error {
	dir := filepath.Join(s.Layout.Data(), "sysctl")
	for _, name := range machineSysctls {
		file, real := filepath.Join(dir, name), filepath.Join("/proc/sys", name)
		content, err := os.ReadFile(real)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, content, 0o644); err != nil {
			return err
		}
		if err := unix.Mount(file, real, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount %s: %w", real, err)
		}
	}
	return nil
}

// setSysctls sets those of the node's own network namespace.
func setSysctls(ipv6 bool) error {
	names := []string{"net/ipv4/ip_forward", "net/ipv4/conf/all/route_localnet", "net/bridge/bridge-nf-call-iptables"}
	if ipv6 {
		names = append(names, "net/ipv6/conf/all/forwarding", "net/bridge/bridge-nf-call-ip6tables")
	}
	for _, name := range names {
		if err := os.WriteFile(filepath.Join("/proc/sys", name), []byte("1"), 0); err != nil {
			if strings.Contains(name, "bridge") && errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("%w; the kernel module br_netfilter is missing", err)
			}
			return err
		}
	}
	return nil
}
