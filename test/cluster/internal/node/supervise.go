package node

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/mirrord-go/mirrord/test/cluster/internal/kubeapi"
)

// startLimit is how long a daemon may take until it answers. Seconds are usual, minutes happen on a busy machine.
const startLimit = 10 * time.Minute

// restartPause is the time between the end of a daemon and its next start.
const restartPause = time.Second

// Supervise is the main function of the node's second process. It starts the daemons in their order and keeps them
// running until ctx ends. It returns an error when the node cannot be started.
func Supervise(ctx context.Context, specPath string) error {
	s, err := ReadSpec(specPath)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	start := func(d daemon) { running.Go(func() { d.keepRunning(ctx, s.Layout.Log()) }) }

	start(s.containerd())
	start(s.etcd())
	start(s.apiserver())
	if err := s.importImages(ctx); err != nil {
		return err
	}
	// The controller manager gives up after 20 seconds without an API server.
	if err := s.waitForAPI(ctx); err != nil {
		return err
	}
	start(s.controllerManager())
	start(s.scheduler())
	start(s.kubelet())
	start(s.kubeProxy())
	<-ctx.Done()
	return nil
}

// keepRunning runs the daemon again and again. Its output, and when and how it ended, is in its log file.
func (d daemon) keepRunning(ctx context.Context, logs string) {
	log, err := os.OpenFile(filepath.Join(logs, d.name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", d.name, err)
		return
	}
	defer log.Close()
	for ctx.Err() == nil {
		cmd := exec.CommandContext(ctx, d.path, d.args...)
		cmd.Dir = "/"
		cmd.Stdout, cmd.Stderr = log, log
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		err := cmd.Run()
		fmt.Fprintf(log, "%s %s ended (%v); it starts again in %v\n", time.Now().Format(time.RFC3339), d.name, err, restartPause)
		select {
		case <-ctx.Done():
		case <-time.After(restartPause):
		}
	}
}

// importImages gives containerd the images that the cluster itself needs, once it answers.
func (s Spec) importImages(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	if err := kubeapi.Wait(ctx, func(ctx context.Context) error { return ctr(ctx, "version") }); err != nil {
		return fmt.Errorf("containerd does not answer: %w", err)
	}
	archives, err := filepath.Glob(filepath.Join(s.Layout.Images(), "*.tar"))
	if err != nil {
		return err
	}
	for _, archive := range archives {
		if err := ctr(ctx, "images", "import", "--all-platforms", archive); err != nil {
			return err
		}
	}
	return nil
}

func (s Spec) waitForAPI(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	api, err := kubeapi.New(s.Ranges.Server(), s.Layout.PKI())
	if err != nil {
		return err
	}
	defer api.Close()
	if err := kubeapi.Wait(ctx, api.Ready); err != nil {
		return fmt.Errorf("the API server is not ready: %w", err)
	}
	return nil
}

// ctr runs the client of containerd on the images and containers of Kubernetes.
func ctr(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "ctr", append([]string{"--namespace", "k8s.io"}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ctr %s: %w: %s", args[0], err, out)
	}
	return nil
}
