// Package machine prepares the computer on which a cluster runs, and clears it again: programs, the link to the node,
// routes, control groups. Linux only.
package machine

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mirrord-go/mirrord/test/cluster/internal/progress"
)

// PluginFolder is where Debian keeps the CNI plugins.
const PluginFolder = "/usr/lib/cni"

// needed maps the programs that do not come from Go modules to the Debian packages that hold them.
var needed = []struct{ program, pkg string }{
	{"containerd", "containerd"},
	{"ctr", "containerd"},
	{"runc", "runc"},
	{PluginFolder + "/bridge", "containernetworking-plugins"},
	{"nft", "nftables"},
	{"iptables", "iptables"},
	{"conntrack", "conntrack"},
	{"nsenter", "util-linux"},
	{"mount", "mount"},
}

// Check returns an error that says what is missing when this process cannot run a cluster here. It changes nothing.
func Check() error {
	if os.Geteuid() != 0 {
		return errors.New("the test cluster has to be started by root: it makes namespaces, mounts and a network link")
	}
	caps, err := effectiveCapabilities()
	if err != nil {
		return err
	}
	for _, c := range []struct {
		bit  int
		name string
	}{{unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN"}, {unix.CAP_NET_ADMIN, "CAP_NET_ADMIN"}, {unix.CAP_SYS_CHROOT, "CAP_SYS_CHROOT"}, {unix.CAP_MKNOD, "CAP_MKNOD"}} {
		if caps&(1<<c.bit) == 0 {
			return fmt.Errorf("the test cluster needs %s, which root has not got here (a container that is not privileged?)", c.name)
		}
	}
	for _, ns := range []string{"mnt", "net", "uts", "ipc", "pid"} {
		if _, err := os.Stat("/proc/self/ns/" + ns); err != nil {
			return fmt.Errorf("the test cluster needs %s namespaces, which this kernel has not got: %w", ns, err)
		}
	}
	return nil
}

func effectiveCapabilities() (uint64, error) {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, fmt.Errorf("capabilities: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "CapEff:"); ok {
			return strconv.ParseUint(strings.TrimSpace(v), 16, 64)
		}
	}
	return 0, errors.New("capabilities: no CapEff in /proc/self/status")
}

// Install makes sure of the programs and kernel modules that a node needs: what is missing is installed from Debian.
func Install(ctx context.Context, out *progress.Printer) error {
	var missing []string
	for _, n := range needed {
		if _, err := exec.LookPath(n.program); err != nil {
			missing = append(missing, n.pkg)
		}
	}
	if len(missing) > 0 {
		if _, err := exec.LookPath("apt-get"); err != nil {
			return fmt.Errorf("these programs are missing, and there is no apt-get to install them: %s", strings.Join(missing, " "))
		}
		if err := out.Step("installing "+strings.Join(missing, " "), func() error { return install(ctx, missing) }); err != nil {
			return err
		}
	}
	for _, module := range []string{"overlay", "br_netfilter", "nf_tables", "nf_conntrack"} {
		// A kernel with the module built in has no modprobe to succeed. What is really missing shows below and at start.
		_ = exec.CommandContext(ctx, "modprobe", module).Run()
	}
	filesystems, err := os.Open("/proc/filesystems")
	if err != nil {
		return fmt.Errorf("file systems: %w", err)
	}
	defer filesystems.Close()
	for s := bufio.NewScanner(filesystems); s.Scan(); {
		if strings.HasSuffix(s.Text(), "\toverlay") {
			return nil
		}
	}
	return errors.New("this kernel has no overlay file system, in which containers keep their files")
}

func install(ctx context.Context, packages []string) error {
	for _, args := range [][]string{
		{"update", "-qq"},
		append([]string{"install", "-y", "-qq", "--no-install-recommends"}, packages...),
	} {
		cmd := exec.CommandContext(ctx, "apt-get", args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		var output bytes.Buffer
		cmd.Stdout, cmd.Stderr = &output, &output
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("apt-get %s: %w\n%s", args[0], err, output.Bytes())
		}
	}
	return nil
}

// HasIPv6 reports whether this machine has IPv6.
func HasIPv6() bool {
	b, err := os.ReadFile("/proc/net/if_inet6")
	return err == nil && len(b) > 0
}
