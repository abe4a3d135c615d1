// Package lifecycle starts a cluster and ends it.
package lifecycle

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"github.com/mirrord-go/mirrord/test/cluster/image"
	"github.com/mirrord-go/mirrord/test/cluster/internal/build"
	"github.com/mirrord-go/mirrord/test/cluster/internal/kubeapi"
	"github.com/mirrord-go/mirrord/test/cluster/internal/layout"
	"github.com/mirrord-go/mirrord/test/cluster/internal/machine"
	"github.com/mirrord-go/mirrord/test/cluster/internal/node"
	"github.com/mirrord-go/mirrord/test/cluster/internal/pki"
	"github.com/mirrord-go/mirrord/test/cluster/internal/progress"
)

// startLimit is how long each stage of a start may take. It is seconds, but minutes on a busy machine.
const startLimit = 10 * time.Minute

// Up makes sure that the cluster runs and is ready, and returns its record. It builds and installs what is missing. A
// cluster that runs is left as it is; what an interrupted Up or a crash left behind is cleared first. When Up fails, or
// ctx ends, nothing runs; after a failure the log files are in LastLogs.
func Up(ctx context.Context, l layout.Layout, out *progress.Printer) (layout.Record, error) {
	if err := machine.Check(); err != nil {
		return layout.Record{}, err
	}
	release, err := lock(l, out)
	if err != nil {
		return layout.Record{}, err
	}
	defer release()
	if err := machine.Install(ctx, out); err != nil {
		return layout.Record{}, err
	}
	programs, err := build.All(ctx, l.Source, l.Binaries(), out)
	if err != nil {
		return layout.Record{}, err
	}
	version, err := fingerprint(programs)
	if err != nil {
		return layout.Record{}, err
	}
	record, ok, err := Status(ctx, l)
	if err != nil {
		return layout.Record{}, err
	}
	if ok {
		if record.Version != version {
			out.Printf("the cluster runs, but was started from other sources: \"cluster down\" first to have these")
		}
		return record, nil
	}
	if err := clear(ctx, l); err != nil {
		return layout.Record{}, err
	}
	record, err = start(ctx, l, programs, version, out)
	if err == nil {
		return record, removeLastLogs(l)
	}
	// The context may have ended, but what was begun has to be cleared all the same.
	clearing, cancel := context.WithTimeout(context.WithoutCancel(ctx), endLimit)
	defer cancel()
	if ctx.Err() != nil { // whoever ended it does not ask why
		return layout.Record{}, errors.Join(context.Cause(ctx), clear(clearing, l))
	}
	err = fmt.Errorf("%w\nthe log files are kept in %s; their ends:\n%s", err, LastLogs(l), tails(l.Log()))
	return layout.Record{}, errors.Join(err, keepLogs(l), clear(clearing, l))
}

// Status returns the record of the cluster. It reports whether the cluster runs and its API server is ready.
func Status(ctx context.Context, l layout.Layout) (layout.Record, bool, error) {
	record, ok, err := layout.ReadRecord(l.State())
	if err != nil || !ok {
		return layout.Record{}, false, err
	}
	if !record.Ready || !alive(record) {
		return record, false, nil
	}
	api, err := kubeapi.New(record.Ranges().Server(), l.PKI())
	if err != nil {
		return record, false, nil // half removed: as good as down
	}
	defer api.Close()
	// Whoever starts the cluster ends one first that does not answer: a busy machine must not look like that.
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	return record, kubeapi.Wait(ctx, api.Ready) == nil, nil
}

// lock makes the commands of all clusters with the same cache folder take turns.
func lock(l layout.Layout, out *progress.Printer) (release func(), err error) {
	if err := os.MkdirAll(l.Cache, 0o755); err != nil {
		return nil, fmt.Errorf("cache folder: %w", err)
	}
	return machine.Lock(l.Cache, func() { out.Printf("waiting for another cluster command to finish…") })
}

// fingerprint tells clusters of different programs or configuration apart.
func fingerprint(p build.Programs) (string, error) {
	config, err := node.Fingerprint()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(fmt.Appendf(config, "%+v", p))
	return hex.EncodeToString(sum[:8]), nil
}

// start brings up a cluster where there is none.
func start(ctx context.Context, l layout.Layout, programs build.Programs, version string, out *progress.Printer) (layout.Record, error) {
	for _, dir := range []string{l.State(), l.Log(), l.Data(), l.Images()} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return layout.Record{}, fmt.Errorf("state folder: %w", err)
		}
	}
	if err := copySelf(l.Tool()); err != nil {
		return layout.Record{}, err
	}
	if err := writeImages(l.Images(), programs); err != nil {
		return layout.Record{}, err
	}
	var record layout.Record
	if err := out.Step("starting the node", func() (err error) {
		record, err = startNode(l, programs, version)
		return err
	}); err != nil {
		return layout.Record{}, err
	}
	if err := waitReady(ctx, l, record, out); err != nil {
		return layout.Record{}, err
	}
	kubeconfig, err := os.ReadFile(filepath.Join(l.PKI(), "admin.kubeconfig"))
	if err != nil {
		return layout.Record{}, err
	}
	if err := os.WriteFile(l.Kubeconfig(), kubeconfig, 0o600); err != nil {
		return layout.Record{}, err
	}
	record.Ready = true
	return record, layout.WriteRecord(l.State(), record)
}

// startNode chooses addresses, writes the configuration, and starts the node's first process with its network. The
// record on disk is always ahead of what exists, so that Down finds all of it.
func startNode(l layout.Layout, programs build.Programs, version string) (layout.Record, error) {
	release, err := machine.LockSlots()
	if err != nil {
		return layout.Record{}, err
	}
	defer release()
	ranges, err := machine.FreeSlot(machine.HasIPv6())
	if err != nil {
		return layout.Record{}, err
	}
	record := newRecord(l, ranges, programs, version)
	if err := layout.WriteRecord(l.State(), record); err != nil {
		return layout.Record{}, err
	}
	if err := writeConfig(l, ranges, programs); err != nil {
		return layout.Record{}, err
	}
	if err := machine.MakeCgroup(ranges.Cgroup()); err != nil {
		return layout.Record{}, err
	}
	log, err := os.Create(filepath.Join(l.Log(), "node.log"))
	if err != nil {
		return layout.Record{}, err
	}
	defer log.Close()
	goAhead, say, err := os.Pipe()
	if err != nil {
		return layout.Record{}, err
	}
	defer say.Close()
	cmd := node.Command(l.Tool(), l, goAhead, log)
	err = cmd.Start()
	goAhead.Close()
	if err != nil {
		return layout.Record{}, fmt.Errorf("the node's namespaces cannot be made: %w", err)
	}
	record.PID = cmd.Process.Pid
	// Collects the process if it ends while this command runs.
	go cmd.Wait() // whoever waits for the node asks alive, and its log says why it ended
	if record.Started, err = startTime(record.PID); err != nil {
		return layout.Record{}, err
	}
	if err := layout.WriteRecord(l.State(), record); err != nil {
		return layout.Record{}, err
	}
	if err := machine.Connect(record.PID, ranges); err != nil {
		return layout.Record{}, err
	}
	if _, err := say.Write([]byte{1}); err != nil {
		return layout.Record{}, fmt.Errorf("the node ended: %w", err)
	}
	return record, nil
}

func newRecord(l layout.Layout, r layout.Ranges, programs build.Programs, version string) layout.Record {
	record := layout.Record{
		Name: l.Name, Slot: r.Slot, IPv6: r.IPv6, Version: version,
		Kubeconfig: l.Kubeconfig(), Kubectl: filepath.Join(programs.Kubernetes, "kubectl"), Tool: l.Tool(),
		MachineIP: r.Machine().Addr().String(), NodeIP: r.Node().Addr().String(),
	}
	if r.IPv6 {
		record.MachineIP6, record.NodeIP6 = r.Machine6().Addr().String(), r.Node6().Addr().String()
	}
	return record
}

func writeConfig(l layout.Layout, r layout.Ranges, programs build.Programs) error {
	ips := []netip.Addr{r.Node().Addr(), r.Machine().Addr(), r.Kubernetes()}
	if r.IPv6 {
		ips = append(ips, r.Node6().Addr(), r.Services6().Addr().Next())
	}
	if err := pki.Write(l.PKI(), pki.Cluster{Server: r.Server(), Node: layout.NodeName, IPs: ips}); err != nil {
		return err
	}
	return node.Spec{Layout: l, Ranges: r, Programs: programs}.Write()
}

// copySelf copies this program to path, so that the node and the tests have it even after "go run" removed it.
func copySelf(path string) error {
	b, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("copy of this program: %w", err)
	}
	if err := os.WriteFile(path, b, 0o755); err != nil {
		return fmt.Errorf("copy of this program: %w", err)
	}
	return nil
}

// writeImages writes the archives that the node imports when it starts.
func writeImages(dir string, p build.Programs) error {
	for tag, program := range map[string]string{node.PauseImage: filepath.Join(p.Pause, "pause"), node.CoreDNSImage: filepath.Join(p.CoreDNS, "coredns")} {
		base := "/" + filepath.Base(program)
		img, err := image.Build(image.Spec{Files: map[string]string{base: program}, Entrypoint: []string{base}, Architecture: runtime.GOARCH})
		if err != nil {
			return err
		}
		if err := image.WriteFile(filepath.Join(dir, filepath.Base(program)+".tar"), tag, img); err != nil {
			return err
		}
	}
	return nil
}

// waitReady waits until the cluster can take work. It gives up when the node has ended.
func waitReady(ctx context.Context, l layout.Layout, record layout.Record, out *progress.Printer) error {
	api, err := kubeapi.New(record.Ranges().Server(), l.PKI())
	if err != nil {
		return err
	}
	defer api.Close()
	for _, stage := range []struct {
		what  string
		check func(context.Context) error
	}{
		{"waiting for the API server", api.Ready},
		{"installing the cluster's DNS", func(ctx context.Context) error {
			_, err := kubectl(ctx, record, l, "apply", "-f", filepath.Join(l.Config(), "system.yaml"))
			return err
		}},
		{"waiting for the node", func(ctx context.Context) error { return api.NodeReady(ctx, layout.NodeName) }},
		{"waiting for the cluster's DNS", func(ctx context.Context) error { return api.DeploymentReady(ctx, "kube-system", "coredns") }},
		{"waiting for the default service account", func(ctx context.Context) error {
			return api.Get(ctx, "/api/v1/namespaces/default/serviceaccounts/default", nil)
		}},
	} {
		if err := out.Step(stage.what, func() error { return waitStage(ctx, record, stage.check) }); err != nil {
			// What the pods say helps where they are the reason. Without an API server this fails too, and says nothing new.
			pods, _ := kubectl(context.WithoutCancel(ctx), record, l, "--namespace=kube-system", "logs", "deployment/coredns", "--tail=20", "--request-timeout=10s")
			return fmt.Errorf("%s: %w\n%s", stage.what, err, pods)
		}
	}
	return nil
}

func waitStage(ctx context.Context, record layout.Record, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startLimit, fmt.Errorf("gave up after %v", startLimit))
	defer cancel()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	return kubeapi.Wait(ctx, func(ctx context.Context) error {
		if !alive(record) {
			stop(errors.New("the node has ended"))
		}
		return check(ctx)
	})
}

// kubectl runs kubectl as the administrator and returns its output.
func kubectl(ctx context.Context, record layout.Record, l layout.Layout, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, record.Kubectl, args...)
	cmd.Env = []string{"KUBECONFIG=" + filepath.Join(l.PKI(), "admin.kubeconfig"), "HOME=" + l.State()}
	b, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("kubectl %s: %w: %s", args[0], err, b)
	}
	return b, nil
}

// LastLogs is the folder of the log files of a start that failed. It is there until the next start succeeds, or Down.
func LastLogs(l layout.Layout) string { return filepath.Join(l.Cache, "failed", l.Name) }

func removeLastLogs(l layout.Layout) error {
	err := os.RemoveAll(LastLogs(l))
	os.Remove(filepath.Dir(LastLogs(l))) // succeeds when these were the last ones
	return err
}

func keepLogs(l layout.Layout) error {
	to := LastLogs(l)
	if err := errors.Join(os.RemoveAll(to), os.MkdirAll(filepath.Dir(to), 0o755)); err != nil {
		return err
	}
	if err := os.Rename(l.Log(), to); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
