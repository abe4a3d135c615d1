//go:build amd64 || arm64

package intercept

import (
	"io"
	"net"
	"testing"
)

// cProgram compiles a program of testdata with one of the C libraries.
func cProgram(t *testing.T, kind, name string) string {
	t.Helper()
	src := testdata(name + ".c")
	switch kind {
	case "glibc":
		return build(t, name+"-glibc", "gcc", "-O1", "-Wall", "-pthread", src, "-o")
	case "glibc static":
		return build(t, name+"-static", "gcc", "-O1", "-static", "-pthread", src, "-o")
	case "musl static":
		return build(t, name+"-musl", "musl-gcc", "-O1", "-static", "-pthread", src, "-o")
	}
	t.Fatal("unknown kind: ", kind)
	return ""
}

// echoOrReset resets what begins with R, else echoes.
func echoOrReset(c *net.TCPConn) {
	var b [1]byte
	if _, err := io.ReadFull(c, b[:]); err != nil {
		return
	}
	if b[0] == 'R' {
		_ = c.SetLinger(0)
		return
	}
	_, _ = c.Write(b[:])
	echo(c)
}

func TestConnectSemantics(t *testing.T) {
	for _, kind := range []string{"glibc", "glibc static", "musl static"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			port, port6 := serveTCP(t, "tcp4", echoOrReset), serveTCP(t, "tcp6", echoOrReset)
			launch(t, &fakeTarget{gate: newGate()}, nil, cProgram(t, kind, "tcp"), port, port6).succeed()
		})
	}
}
