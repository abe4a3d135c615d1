//go:build amd64 || arm64

package intercept

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const targetHostname = "shop-7d4b9c-x2x4z"

// TestHostname asks for the host name as programs do. Java also looks it up, which in a session
// the target's hosts file answers.
func TestHostname(t *testing.T) {
	tests := []struct {
		name string
		want string
		argv func(*testing.T) []string
	}{
		{"go", targetHostname, func(t *testing.T) []string { return []string{goChild(t), "hostname"} }},
		{"hostname", targetHostname, func(*testing.T) []string { return []string{"hostname"} }},
		{"uname", targetHostname, func(*testing.T) []string { return []string{"uname", "-n"} }},
		{"busybox", targetHostname, func(*testing.T) []string { return []string{"busybox", "hostname"} }},
		{"python", targetHostname, func(*testing.T) []string {
			return []string{"python3", "-c", "import socket; print(socket.gethostname())"}
		}},
		{"node", targetHostname, func(*testing.T) []string { return []string{"node", "-e", "console.log(require('os').hostname())"} }},
		{"java", "shop.test", func(t *testing.T) []string { return []string{"java", "-cp", javaChild(t), "Child", "hostname"} }},
		{"perl", targetHostname, func(*testing.T) []string { return []string{"perl", "-MSys::Hostname", "-e", `print hostname, "\n"`} }},
		{"descendant", targetHostname, func(*testing.T) []string { return []string{"sh", "-c", "(uname -n) | cat"} }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			out := launch(t, &fakeTarget{}, func(o *Options, _ *times) { o.Hostname = tt.want }, tt.argv(t)...).succeed()
			if got := strings.TrimSpace(out); got != tt.want {
				t.Errorf("the program sees %q, want %q", got, tt.want)
			}
		})
	}
}

// TestHostnameOnly: the rest of uname is the laptop's.
func TestHostnameOnly(t *testing.T) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	text := func(b [65]byte) string { return unix.ByteSliceToString(b[:]) }
	want := strings.Join([]string{text(u.Sysname), targetHostname, text(u.Release), text(u.Version), text(u.Machine)}, " ")
	out := launch(t, &fakeTarget{}, func(o *Options, _ *times) { o.Hostname = targetHostname }, "uname", "-snrvm").succeed()
	if got := strings.TrimSpace(out); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// TestLongHostname is cut as long as the kernel's own may be.
func TestLongHostname(t *testing.T) {
	out := launch(t, &fakeTarget{}, func(o *Options, _ *times) { o.Hostname = strings.Repeat("x", 300) }, "uname", "-n").succeed()
	if got := strings.TrimSpace(out); got != strings.Repeat("x", 64) {
		t.Errorf("got %q", got)
	}
}

// TestHostnameStays where nobody asked for another one, where a program has given itself one, and
// where it asks for a machine that it is not on.
func TestHostnameStays(t *testing.T) {
	own, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, hostname, want string
		root                 bool
		argv                 []string
	}{
		{name: "not asked for", want: own, argv: []string{"uname", "-n"}},
		{name: "own namespace", hostname: targetHostname, want: "chosen", root: true, argv: []string{"unshare", "--uts", "sh", "-c", "hostname chosen; uname -n"}},
		{name: "own personality", hostname: targetHostname, want: own, argv: []string{"setarch", "--uname-2.6", "uname", "-n"}},
		{name: "debugger's personality", hostname: targetHostname, want: targetHostname, argv: []string{"setarch", "--addr-no-randomize", "uname", "-n"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if tt.root && os.Geteuid() != 0 {
				t.Skip("a namespace needs root")
			}
			out := launch(t, &fakeTarget{}, func(o *Options, _ *times) { o.Hostname = tt.hostname }, tt.argv...).succeed()
			if got := strings.TrimSpace(out); got != tt.want {
				t.Errorf("the program sees %q, want %q", got, tt.want)
			}
		})
	}
}

// TestHostnameFault: a bad pointer gets the errno of the kernel.
func TestHostnameFault(t *testing.T) {
	out := launch(t, &fakeTarget{}, func(o *Options, _ *times) { o.Hostname = targetHostname }, goChild(t), "badname").succeed()
	if got := strings.TrimSpace(out); got != "bad address" {
		t.Errorf("got %q", got)
	}
}
