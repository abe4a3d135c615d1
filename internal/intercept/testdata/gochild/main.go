// Command gochild is a static Go program for the tests of interception.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"time"
)

func main() {
	commands := map[string]func([]string) error{
		"tcp": tcp, "udp": udp, "dns": dns, "many": many, "serve": serve, "daemon": daemon,
		"idle": idle, "limits": limits, "burst": burst,
		"run": run, "exec": become,
		"hostname": hostname, "badname": badName, "chdir": chdir,
	}
	if err := commands[os.Args[1]](os.Args[2:]); err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
}

// chdir DIRECTORY FILE: what is in the file, and where that is.
func chdir(args []string) error {
	if err := os.Chdir(args[0]); err != nil {
		return err
	}
	b, err := os.ReadFile(args[1])
	if err != nil {
		return err
	}
	dir, err := os.Getwd()
	fmt.Println(string(b), dir)
	return err
}

// tcp ADDRESS: one exchange with an echo server.
func tcp(args []string) error {
	c, err := net.DialTimeout("tcp", args[0], 60*time.Second)
	if err != nil {
		for _, e := range []syscall.Errno{syscall.ECONNREFUSED, syscall.ETIMEDOUT, syscall.EHOSTUNREACH, syscall.ENETUNREACH} {
			if errors.Is(err, e) {
				fmt.Println("errno", int(e))
			}
		}
		return err
	}
	defer c.Close()
	fmt.Println("peer", c.RemoteAddr())
	if _, err := io.WriteString(c, "ping"); err != nil {
		return err
	}
	_ = c.(*net.TCPConn).CloseWrite()
	b, err := io.ReadAll(c)
	fmt.Println("got", string(b))
	return err
}

// udp ADDRESS: connected and unconnected.
func udp(args []string) error {
	c, err := net.Dial("udp", args[0])
	if err != nil {
		return err
	}
	defer c.Close()
	u, err := net.ListenPacket("udp", ":0")
	if err != nil {
		return err
	}
	defer u.Close()
	to, err := net.ResolveUDPAddr("udp", args[0])
	if err != nil {
		return err
	}
	b := make([]byte, 64)
	_ = c.SetDeadline(time.Now().Add(60 * time.Second))
	_ = u.SetDeadline(time.Now().Add(60 * time.Second))
	if _, err := io.WriteString(c, "connected"); err != nil {
		return err
	}
	n, err := c.Read(b)
	if err != nil {
		return err
	}
	fmt.Println(string(b[:n]), c.RemoteAddr())
	if _, err := u.WriteTo([]byte("unconnected"), to); err != nil {
		return err
	}
	n, from, err := u.ReadFrom(b)
	if err != nil {
		return err
	}
	fmt.Println(string(b[:n]), from)
	return nil
}

// dns NAME: the resolver of Go.
func dns(args []string) error {
	r := net.Resolver{PreferGo: true}
	addrs, err := r.LookupHost(context.Background(), args[0])
	fmt.Println(addrs)
	return err
}

// many ADDRESS N: connections, all at the same time.
func many(args []string) error {
	n, _ := strconv.Atoi(args[1])
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		first error
	)
	conns := make([]net.Conn, n)
	for i := range n {
		wg.Go(func() {
			c, err := net.Dial("tcp", args[0])
			if err == nil {
				conns[i] = c
				_, err = io.WriteString(c, "x")
			}
			if err == nil {
				_, err = io.ReadFull(c, make([]byte, 1))
			}
			if err != nil {
				mu.Lock()
				first = errors.Join(first, err)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if first != nil {
		return first
	}
	fmt.Println("all connected")
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
	for _, c := range conns {
		_ = c.Close()
	}
	return nil
}

// burst ADDRESS N WORKERS: connections one after the other.
func burst(args []string) error {
	n, _ := strconv.Atoi(args[1])
	workers, _ := strconv.Atoi(args[2])
	var wg sync.WaitGroup
	errs := make(chan error, workers)
	start := time.Now()
	for range workers {
		wg.Go(func() {
			for range n / workers {
				if err := once(args[0]); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	fmt.Printf("%.0f connections per second\n", float64(n)/time.Since(start).Seconds())
	return <-errs
}

func once(addr string) error {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := io.WriteString(c, "x"); err != nil {
		return err
	}
	_, err = io.ReadFull(c, make([]byte, 1))
	_ = c.(*net.TCPConn).SetLinger(0)
	return err
}

// serve NETWORK ADDRESS: print the peer of each connection, and greet it.
func serve(args []string) error {
	l, err := net.Listen(args[0], args[1])
	if err != nil {
		return err
	}
	fmt.Println("listening", l.Addr().(*net.TCPAddr).Port)
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			fmt.Println("client", c.RemoteAddr())
			_, _ = io.WriteString(c, "hello")
			_, _ = io.Copy(io.Discard, c)
		}()
	}
}

// daemon COMMAND...: run it in a new session and end at once.
func daemon(args []string) error {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd.Start()
}

// idle: print the process id and wait.
func idle([]string) error {
	fmt.Println("pid", os.Getpid())
	select {}
}

// limits: the limits of open files that a child of this program has.
func limits([]string) error {
	cmd := exec.Command("/bin/sh", "-c", "ulimit -Sn; ulimit -Hn")
	cmd.Stdout = os.Stdout
	return cmd.Run()
}

// run COMMAND...: as go run does.
func run(args []string) error {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Run()
}

// become COMMAND...: in place of this program.
func become(args []string) error { return syscall.Exec(args[0], args, os.Environ()) }

// hostname prints it.
func hostname([]string) error {
	name, err := os.Hostname()
	fmt.Println(name)
	return err
}

// badName asks for it with a pointer to nowhere.
func badName([]string) error {
	_, _, errno := syscall.Syscall(syscall.SYS_UNAME, 8, 0, 0)
	fmt.Println(errno)
	return nil
}
