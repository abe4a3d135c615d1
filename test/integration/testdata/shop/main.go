// Command shop is what the tests debug, reload and run with fewer rights: a server that asks another one before it
// answers. Its siblings beside this folder, in Python, JavaScript and C, do the same.
//
// It listens on the port that is its argument, and answers each line with its version, who asked, and what the
// service of the cluster says. "bye" ends it. With the argument "once" it asks the service, prints that, and ends.
package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"strings"
)

// version is changed by tests that reload.
const version = "v1"

// answer is where the debuggers stop.
func answer(line string) string {
	c, err := net.Dial("tcp", "shop.demo.svc.cluster.local:7000")
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	fmt.Fprintln(c, line)
	reply, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(reply)
}

func main() {
	if len(os.Args) != 2 {
		fmt.Println("usage: shop PORT | once")
		os.Exit(2)
	}
	if os.Args[1] == "once" {
		fmt.Printf("uid %d, euid %d: %s\n", os.Getuid(), os.Geteuid(), answer("once"))
		return
	}
	l, err := net.Listen("tcp", ":"+os.Args[1])
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("listening", version)
	for {
		c, err := l.Accept()
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		go serve(c)
	}
}

func serve(c net.Conn) {
	defer c.Close()
	peer, _, _ := net.SplitHostPort(c.RemoteAddr().String())
	for s := bufio.NewScanner(c); s.Scan(); {
		if s.Text() == "bye" {
			fmt.Fprintln(c, "bye")
			os.Exit(0)
		}
		fmt.Fprintf(c, "go %s asked by %s; %s\n", version, peer, answer(s.Text()))
	}
}
