package program

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/mirrord-go/mirrord/internal/intercept"
)

// The variables by which editors tell of their debuggers.
const (
	// IgnoreVariable has ports and ranges of ports, with commas between, such as "45000-65535".
	IgnoreVariable = "MIRRORD_IGNORE_DEBUGGER_PORTS"
	// DetectVariable names a kind of debugger. All kinds that are known are looked for without it too.
	DetectVariable = "MIRRORD_DETECT_DEBUGGER_PORT"
)

// Debuggers tell the ports by which debuggers speak to their user. Nothing of the target's is meant by them.
type Debuggers struct{ given []portRange }

type portRange struct{ first, last uint16 }

// NewDebuggers reads the value of [IgnoreVariable].
func NewDebuggers(ignore string) (*Debuggers, error) {
	d := &Debuggers{}
	for item := range strings.SplitSeq(ignore, ",") {
		item = strings.TrimSpace(item)
		if item == "" {
			continue
		}
		first, last, isRange := strings.Cut(item, "-")
		if !isRange {
			last = first
		}
		a, ok := port(first)
		b, ok2 := port(last)
		if !ok || !ok2 || a > b {
			return nil, fmt.Errorf("%s: %q is neither a port nor a range of ports such as 45000-65535", IgnoreVariable, item)
		}
		d.given = append(d.given, portRange{a, b})
	}
	return d, nil
}

// Owns says whether the address is a debugger's in a process. Its command line decides; the ports of the variable
// count, on loopback, where that names none.
func (d *Debuggers) Owns(p intercept.Program, addr netip.AddrPort) bool {
	if found := detect(p.Args(), p.Environ); len(found) > 0 {
		return slices.Contains(found, addr.Port())
	}
	return addr.Addr().IsLoopback() && slices.ContainsFunc(d.given, func(r portRange) bool {
		return r.first <= addr.Port() && addr.Port() <= r.last
	})
}

// detect finds the ports of debuggers in a command line, and in variables that add to it.
func detect(args []string, environ func() []string) []uint16 {
	if len(args) == 0 {
		return nil
	}
	name := filepath.Base(args[0])
	switch {
	case strings.HasPrefix(name, "py"):
		return python(args[1:])
	case name == "node" || name == "nodejs":
		options := strings.Fields(variable(environ(), "NODE_OPTIONS"))
		return node(append(beforeScript(args[1:]), options...))
	case name == "java":
		options := variable(environ(), "JAVA_TOOL_OPTIONS") + " " + variable(environ(), "JDK_JAVA_OPTIONS")
		return append(java(args[1:]), java(strings.Fields(options))...)
	case name == "dlv" || name == "dlv-dap":
		return addresses(args[1:], "--listen", "-l")
	case name == "gdbserver":
		return gdbserver(args[1:])
	case name == "dotnet" && len(args) > 2 && strings.Contains(args[2], "Debugger"):
		return addresses(args[1:], "--frontend-port")
	}
	return nil
}

// python: debugpy takes an address with --listen or --connect; its adapter, and pydevd, a port.
func python(args []string) []uint16 {
	for i, arg := range args {
		module := filepath.Base(arg)
		switch {
		case module == "debugpy":
			ports := addresses(args[i+1:], "--listen", "--connect")
			return ports[:min(len(ports), 1)] // what comes behind is the user's
		case module == "adapter" && strings.Contains(arg, "debugpy"), strings.HasPrefix(module, "pydevd"):
			return addresses(args[i+1:], "--port", "--for-server")
		case !strings.HasPrefix(arg, "-"):
			return nil // the user's script, whose arguments are its own
		}
	}
	return nil
}

// nodeDefault is where the inspector listens.
const nodeDefault = 9229

// node: --inspect, --inspect-brk and --inspect-wait, with a port, an address or nothing. The port is the next free
// one for workers (--inspect-port), which take part only in clusters.
func node(args []string) []uint16 {
	var ports []uint16
	inspects := false
	for _, arg := range args {
		option, value, _ := strings.Cut(arg, "=")
		switch option {
		case "--inspect", "--inspect-brk", "--inspect-wait":
			inspects = true
		case "--inspect-port", "--debug-port":
		default:
			continue
		}
		if p, ok := endPort(value); ok {
			ports = append(ports, p)
		}
	}
	if inspects && len(ports) == 0 {
		return []uint16{nodeDefault}
	}
	return ports
}

// beforeScript are node's own arguments.
func beforeScript(args []string) []string {
	withValue := []string{"-r", "--require", "--import", "--loader", "--experimental-loader", "--env-file", "-C", "--conditions"}
	for i := 0; i < len(args); i++ {
		switch {
		case slices.Contains(withValue, args[i]):
			i++
		case !strings.HasPrefix(args[i], "-"):
			return slices.Clip(args[:i])
		}
	}
	return slices.Clip(args)
}

// java: the agent of the Java Debug Wire Protocol, by either of its options.
func java(args []string) []uint16 {
	var ports []uint16
	for _, arg := range args {
		options, ok := strings.CutPrefix(arg, "-agentlib:jdwp=")
		if !ok {
			options, ok = strings.CutPrefix(arg, "-Xrunjdwp:")
		}
		if !ok {
			continue
		}
		for option := range strings.SplitSeq(options, ",") {
			if address, ok := strings.CutPrefix(option, "address="); ok {
				if p, ok := endPort(address); ok {
					ports = append(ports, p)
				}
			}
		}
	}
	return ports
}

// gdbserver: its first argument that is no option is [HOST]:PORT.
func gdbserver(args []string) []uint16 {
	for _, arg := range args {
		if !strings.HasPrefix(arg, "-") {
			p, ok := endPort(arg)
			if !ok {
				return nil
			}
			return []uint16{p}
		}
	}
	return nil
}

// addresses are the ports in the values of options, which follow as an argument or after "=".
func addresses(args []string, options ...string) []uint16 {
	var ports []uint16
	for i, arg := range args {
		if arg == "--" || arg == "--file" || arg == "-m" || arg == "-c" {
			break // what follows is the program that is debugged
		}
		option, value, joined := strings.Cut(arg, "=")
		if !slices.Contains(options, option) {
			continue
		}
		if !joined && i+1 < len(args) {
			value = args[i+1]
		}
		if p, ok := endPort(value); ok {
			ports = append(ports, p)
		}
	}
	return ports
}

// endPort is the port at the end of an address, or alone.
func endPort(address string) (uint16, bool) {
	return port(address[strings.LastIndexByte(address, ':')+1:])
}

func port(text string) (uint16, bool) {
	n, err := strconv.ParseUint(text, 10, 16)
	return uint16(n), err == nil && n != 0
}

func variable(environ []string, name string) string {
	for _, v := range environ {
		if value, ok := strings.CutPrefix(v, name+"="); ok {
			return value
		}
	}
	return ""
}
