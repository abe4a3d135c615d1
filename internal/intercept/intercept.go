// Package intercept runs a child process tree and hands its network calls to the rest of
// the client: which connections leave through the target, which stay on the laptop, what a
// name resolves to, which ports the child listens on.
//
// On Linux it does so with seccomp user notification, without root and without changing the
// child: static binaries are covered like any other. Elsewhere [Start] returns
// [ErrUnsupported]. Nothing outside this package knows of system calls; it sees the
// [Network] interface that it implements.
//
// Programs with more privileges than their caller (setuid, file capabilities) run without
// those, since the filter requires no_new_privs; where the program is not readable or its
// privileges matter, it fails or is refused rather than run outside of the interception.
//
// It is a convenience, not a security boundary: a child that wants to escape can.
package intercept

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
)

// ErrUnsupported is returned by [Start] on systems other than Linux, and wrapped with the
// reason on Linux systems that lack what interception needs.
var ErrUnsupported = errors.New("running a process with interception is not supported here")

// ErrNested is wrapped by [Start] when this process runs under an interception already: the
// kernel allows one.
var ErrNested = errors.New("this process already runs under an interception of system calls")

// Protocol is the transport of a destination.
type Protocol uint8

// The transports that are intercepted.
const (
	TCP Protocol = iota + 1
	UDP
)

// Verdict is what happens to a connection or datagram.
type Verdict uint8

// The verdicts. The zero value is invalid, so that a forgotten decision fails.
const (
	// Local lets the call through untouched.
	Local Verdict = iota + 1
	// Remote carries it to the target.
	Remote
	// Resolve answers it in process: the peer is a name server.
	Resolve
	// Refuse fails the call with the errno that came with the verdict.
	Refuse
)

// Conn is a connection at the target.
type Conn interface {
	net.Conn
	// CloseWrite ends the sending direction.
	CloseWrite() error
}

// PacketConn is one UDP socket at the target.
type PacketConn interface {
	// WriteTo sends one datagram.
	WriteTo(b []byte, dst netip.AddrPort) error
	// ReadFrom blocks for the next datagram. An error of type *DatagramError says that an
	// earlier datagram failed; the socket can be used on.
	ReadFrom() (b []byte, src netip.AddrPort, err error)
	// Close ends blocked calls.
	Close() error
}

// ErrLocal is returned by [Network.DialUnix] to let the call through to the laptop after all.
var ErrLocal = errors.New("the laptop's own socket is to be used")

// UnixConn is a connection to a Unix socket of the target that has no near side yet. One of its
// methods is called, once.
type UnixConn interface {
	// Join copies between near and the target until both directions have ended or ctx has, and
	// closes both.
	Join(ctx context.Context, near *net.UnixConn)
	// Close gives the connection up.
	Close() error
}

// DatagramError is a failure that belongs to one destination of a [PacketConn], such as
// ECONNREFUSED. It wraps the syscall.Errno.
type DatagramError struct {
	Addr netip.AddrPort
	Err  error
}

// Error names the destination.
func (e *DatagramError) Error() string { return e.Addr.String() + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *DatagramError) Unwrap() error { return e.Err }

// Network decides for the child and carries what leaves the laptop. Methods are called from
// many goroutines at once.
type Network interface {
	// Route decides about a connect or an addressed datagram. It must not block: the
	// child's calls wait in one line for it. Err is the syscall.Errno for Refuse. The
	// address is unmapped: IPv4-mapped IPv6 arrives as IPv4.
	Route(p Protocol, dst netip.AddrPort) (v Verdict, err error)
	// ResolvesNames says whether name lookups of the child belong to the target. Then
	// local caches (nscd, systemd-resolved over their sockets) are refused, so that
	// lookups take the form of DNS queries.
	ResolvesNames() bool
	// DialTCP connects from the target and blocks until that succeeded or failed. An
	// error wraps the syscall.Errno that the child is to see.
	DialTCP(ctx context.Context, dst netip.AddrPort) (Conn, error)
	// OpenUDP opens a UDP socket at the target.
	OpenUDP(ctx context.Context) (PacketConn, error)
	// RouteUnix decides about a connect to a Unix socket (SOCK_STREAM or SOCK_SEQPACKET):
	// Remote or Local. The name is an absolute path, or "@" and an abstract name. It must not
	// block.
	RouteUnix(name string) Verdict
	// DialUnix connects to a Unix socket of the target; packets asks for SOCK_SEQPACKET. An
	// error wraps the syscall.Errno that the child is to see, or [ErrLocal].
	DialUnix(ctx context.Context, packets bool, name string) (UnixConn, error)
	// Exchange answers one DNS message that was sent to server. Stream says that it came
	// over TCP. An error leaves the query unanswered.
	Exchange(ctx context.Context, stream bool, server netip.AddrPort, query []byte) ([]byte, error)
	// Bind decides about a TCP port that the child asks for; requested has one. It must not block.
	Bind(requested netip.AddrPort) Binding
	// Moved says that the child was given another port than requested, and thinks that it has that one;
	// or, with a [Binding] to the port of actual, that it was refused it. The reason is EADDRINUSE or EACCES. It must
	// not block.
	Moved(requested netip.AddrPort, actual uint16, reason error)
	// Listening says that the child listens on a TCP address, as it asked for it: the address may
	// be unspecified. It is called before the child's listen returns, and must not block
	// for longer than the child may wait. Called again for each further listener on the
	// same address.
	Listening(addr netip.AddrPort)
}

// Binding is where a port of the child is opened on the laptop. The zero value leaves it to the kernel,
// as without interception.
type Binding struct {
	// Port is the one that is opened; if it can't be, the child's bind fails. 0 is the requested one.
	Port uint16
	// Elsewhere takes any free port when the requested one is taken by others than the child, or may not be opened.
	Elsewhere bool
}

// Program is what a process of the child's tree runs at the moment. What can't be known is empty.
type Program interface {
	// File is the path of the executable; of a script, that of its interpreter.
	File() string
	// Name is the process's own: the first 15 bytes of the program's or script's file name, unless the process
	// has changed it.
	Name() string
	// Args are the command line, with the program's name.
	Args() []string
	// Environ is the environment that the program was started with.
	Environ() []string
}

// Options are what [Start] runs.
type Options struct {
	// Path of the program, resolved; Args include the program's name.
	Path string
	Args []string
	// Env is the complete environment, NAME=value.
	Env []string
	// Dir is the working directory; empty means the caller's.
	Dir string
	// Stdin, Stdout and Stderr go to the child unchanged.
	Stdin, Stdout, Stderr *os.File
	// Network serves the child.
	Network Network
	// TranslatePeers makes the child see the real client of a connection that
	// [Process.DialChild] delivered, in accept and getpeername.
	TranslatePeers bool
	// Outside says that a process is not part of the session: it connects, listens and looks names up as if
	// there were none. What it starts is asked about for itself. It is called for most calls of the child,
	// several at once. Nil: all processes are inside.
	Outside func(Program) bool
	// OwnPort says that a TCP address, on which a process wants to listen or to which it connects on loopback, is
	// the laptop's whatever the network says: a debugger's. Nil: none is.
	OwnPort func(Program, netip.AddrPort) bool
	// Hostname is what uname(2), and so gethostname(3), tells the child; longer than 64 bytes it
	// is cut, as the kernel has no longer ones. Empty leaves the laptop's.
	Hostname string
	// Files, when not nil, serves calls about files. The caller closes it after the process.
	Files *FileServer
}

// Process is a running child.
type Process interface {
	// Pid of the child.
	Pid() int
	// Signal sends a signal to the child.
	Signal(os.Signal) error
	// Wait blocks until the child has exited and returns its state. Calls of
	// grandchildren that still run are served until Close.
	Wait() (*os.ProcessState, error)
	// DialChild connects to a listener of the child, by the address of [Network.Listening], as if from peer: the child that asks
	// for the connection's peer is told that address. An error wraps ECONNREFUSED when
	// nobody listens there any more.
	DialChild(ctx context.Context, listener, peer netip.AddrPort) (Conn, error)
	// Closer ends what is left of the tree's interception and releases everything.
	io.Closer
}
