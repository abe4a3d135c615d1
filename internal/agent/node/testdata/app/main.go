// App is a pod's application in the tests: it answers every line on port 8080 with
// "target", under a host name of its own.
package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"syscall"
)

func main() {
	if err := syscall.Sethostname([]byte("shop-0")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	l, err := net.Listen("tcp", ":8080")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("ready")
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			for s := bufio.NewScanner(c); s.Scan(); {
				if _, err := fmt.Fprintln(c, "target"); err != nil {
					return
				}
			}
		}()
	}
}
