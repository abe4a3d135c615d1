package world

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// World is a running cluster in miniature.
type World struct {
	dir     string
	node    *namespace
	pod     *namespace
	client  *namespace
	db      *namespace
	app     *exec.Cmd
	closers []io.Closer
	wg      sync.WaitGroup
}

// Build makes the world inside the sandbox that the calling process is in. PodCommand
// starts the pod's application: a program that calls [RunPod]. Files are kept in dir.
func Build(ctx context.Context, dir string, podCommand []string) (*World, error) {
	w := &World{dir: dir}
	if err := w.build(ctx, podCommand); err != nil {
		return nil, errors.Join(Explain(err), w.Close())
	}
	return w, nil
}

func (w *World) build(ctx context.Context, podCommand []string) error {
	if err := enter(); err != nil {
		return err
	}
	if err := loopbackUp(); err != nil {
		return err
	}
	if err := replace(w.dir, "/etc/resolv.conf", "nameserver 127.0.0.1\n"); err != nil {
		return err
	}
	if err := replace(w.dir, "/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"); err != nil {
		return err
	}
	for _, n := range []struct {
		name string
		ns   **namespace
		addr netip.Addr
	}{
		{"node", &w.node, NodeAddr},
		{"pod", &w.pod, PodAddr},
		{"client", &w.client, ClientAddr},
		{"db", &w.db, DatabaseAddr},
	} {
		ns, err := newNamespace()
		if err != nil {
			return err
		}
		*n.ns = ns
		if n.name == "node" {
			err = ns.bridge(n.addr)
		} else {
			err = ns.plug(w.node, n.name, n.addr)
		}
		if err != nil {
			return err
		}
	}
	if err := w.node.do(func() error { return w.serveNames(NodeAddr, clusterNames()) }); err != nil {
		return err
	}
	if err := w.serveNames(netip.MustParseAddr("127.0.0.1"), map[string]netip.Addr{LaptopName: LaptopAddr}); err != nil {
		return err
	}
	if err := w.db.do(func() error { return w.serveEcho(netip.AddrPortFrom(DatabaseAddr, DatabasePort), "database") }); err != nil {
		return err
	}
	if err := w.serveEcho(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), LaptopPort), "laptop"); err != nil {
		return err
	}
	return w.startPod(ctx, podCommand)
}

// startPod starts the pod's application and waits until it listens.
func (w *World) startPod(ctx context.Context, command []string) error {
	w.app = exec.Command(command[0], command[1:]...)
	w.app.Args = append(w.app.Args, w.dir)
	w.app.SysProcAttr = Pod()
	w.app.Stderr = os.Stderr
	stdout, err := w.app.StdoutPipe()
	if err != nil {
		return err
	}
	if err := w.pod.do(w.app.Start); err != nil {
		return fmt.Errorf("starting the pod's application: %w", err)
	}
	ready := make(chan error, 1)
	w.wg.Go(func() {
		_, err := bufio.NewReader(stdout).ReadString('\n')
		ready <- err
	})
	select {
	case err := <-ready:
		if err != nil {
			return fmt.Errorf("the pod's application did not start: %w", err)
		}
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// PodPid is the process id of the pod's application.
func (w *World) PodPid() int { return w.app.Process.Pid }

// InPod runs f with the pod's network namespace as the calling thread's: processes that f
// starts belong to it.
func (w *World) InPod(f func() error) error { return w.pod.do(f) }

// Ask makes one request to the pod's port from the client's namespace, on a connection of
// its own.
func (w *World) Ask(ctx context.Context) (Answer, error) {
	var a Answer
	err := w.client.do(func() error {
		d := net.Dialer{Timeout: AnswerTime}
		c, err := d.DialContext(ctx, "tcp", netip.AddrPortFrom(PodAddr, PodPort).String())
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(AnswerTime))
		a.Sent = []byte("hello shop " + strconv.Itoa(os.Getpid()) + "\n")
		if _, err := c.Write(a.Sent); err != nil {
			return err
		}
		line, err := bufio.NewReader(c).ReadBytes('\n')
		if err != nil {
			return fmt.Errorf("reading the answer: %w", err)
		}
		return json.Unmarshal(line, &a)
	})
	return a, err
}

// Close ends the application and every server.
func (w *World) Close() error {
	var errs []error
	if w.app != nil && w.app.Process != nil {
		_ = w.app.Process.Kill()
		_ = w.app.Wait()
	}
	for _, c := range w.closers {
		errs = append(errs, c.Close())
	}
	w.wg.Wait()
	for _, n := range []*namespace{w.node, w.pod, w.client, w.db} {
		if n != nil {
			n.close()
		}
	}
	return errors.Join(errs...)
}

// RunPod is the pod's application: it answers every line on the pod's port with an
// [Answer]. The process must have been started with the attributes of [Pod]; dir is where
// its files are kept.
func RunPod(dir string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making the mounts private: %w", err)
	}
	if err := unix.Sethostname([]byte(PodHostname)); err != nil {
		return fmt.Errorf("setting the host name: %w", err)
	}
	search := Namespace + ".svc." + Domain
	resolv := fmt.Sprintf("search %s svc.%s %s\nnameserver %s\noptions ndots:5\n", search, Domain, Domain, NodeAddr)
	if err := replace(dir, "/etc/resolv.conf", resolv); err != nil {
		return err
	}
	if err := replace(dir, "/etc/hosts", fmt.Sprintf("127.0.0.1 localhost\n%s %s\n", PodAddr, PodHostname)); err != nil {
		return err
	}
	l, err := net.Listen("tcp", ":"+strconv.Itoa(PodPort))
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stdout, "ready")
	return ServeLines(l, "pod", nil)
}
