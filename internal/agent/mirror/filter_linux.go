package mirror

import (
	"fmt"
	"slices"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/mirrord-go/mirrord/internal/agent/sockmark"
)

const (
	// MaxPorts is how many ports can be mirrored at once; a packet is compared with each.
	MaxPorts = 256
	// wholePacket is longer than any packet.
	wholePacket = 1 << 24
)

// filter is the kernel's part of the choice (socket(7), SO_ATTACH_FILTER), for a packet
// socket that begins at the IP header: TCP from outside to one of the ports, and from one of
// the ports what opens or resets a connection. What passes over loopback is seen twice, as
// outgoing and as arriving; only the latter counts as from outside. Packets of our own
// connections to the application do not count at all, being copies of others.
func filter(ports []uint16) ([]bpf.RawInstruction, error) {
	if len(ports) > MaxPorts {
		return nil, fmt.Errorf("%d ports are too many to mirror at once (at most %d)", len(ports), MaxPorts)
	}
	// The version is left in A for v6.
	v4 := slices.Concat(
		[]bpf.Instruction{bpf.LoadAbsolute{Off: 9, Size: 1}}, require(protoTCP),
		[]bpf.Instruction{bpf.LoadAbsolute{Off: 6, Size: 2}, bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: 0x1fff}}, require(0),
		[]bpf.Instruction{bpf.LoadMemShift{Off: 0}},
	)
	jumbo := slices.Concat( // a hop-by-hop header of eight bytes
		require(protoHopOpt),
		[]bpf.Instruction{bpf.LoadAbsolute{Off: 40, Size: 2}}, require(protoTCP<<8),
		[]bpf.Instruction{bpf.LoadConstant{Dst: bpf.RegX, Val: 48}},
	)
	v6 := slices.Concat(
		require(6),
		[]bpf.Instruction{
			bpf.LoadAbsolute{Off: 6, Size: 1},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: protoTCP, SkipFalse: 2},
			bpf.LoadConstant{Dst: bpf.RegX, Val: 40},
			bpf.Jump{Skip: uint32(len(jumbo))},
		},
		jumbo,
	)
	// X is the offset of the TCP header from here on.
	arriving := slices.Concat(
		[]bpf.Instruction{
			bpf.LoadExtension{Num: bpf.ExtMark},
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: sockmark.Agent, SkipTrue: 1},
			bpf.RetConstant{Val: 0},
			bpf.LoadIndirect{Off: 2, Size: 2},
		},
		oneOf(ports),
	)
	leaving := slices.Concat(
		require(unix.PACKET_OUTGOING),
		[]bpf.Instruction{
			bpf.LoadIndirect{Off: 13, Size: 1},
			bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: flagSYN | flagRST, SkipTrue: 1},
			bpf.RetConstant{Val: 0},
			bpf.LoadIndirect{Off: 0, Size: 2},
		},
		oneOf(ports),
	)
	return bpf.Assemble(slices.Concat(
		[]bpf.Instruction{
			bpf.LoadAbsolute{Off: 0, Size: 1},
			bpf.ALUOpConstant{Op: bpf.ALUOpShiftRight, Val: 4},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: 4, SkipFalse: uint8(len(v4) + 1)},
		},
		v4, []bpf.Instruction{bpf.Jump{Skip: uint32(len(v6))}}, v6,
		[]bpf.Instruction{
			bpf.LoadExtension{Num: bpf.ExtType},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.PACKET_HOST, SkipTrue: 1},
			bpf.Jump{Skip: uint32(len(arriving))}, // Conditional jumps are too short for this.
		},
		arriving, leaving,
	))
}

// require ends the program, refusing the packet, unless A is v.
func require(v uint32) []bpf.Instruction {
	return []bpf.Instruction{bpf.JumpIf{Cond: bpf.JumpEqual, Val: v, SkipTrue: 1}, bpf.RetConstant{Val: 0}}
}

// oneOf ends the program, taking the packet if A is one of the ports.
func oneOf(ports []uint16) []bpf.Instruction {
	var out []bpf.Instruction
	for _, p := range ports {
		out = append(out, bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(p), SkipFalse: 1}, bpf.RetConstant{Val: wholePacket})
	}
	return append(out, bpf.RetConstant{Val: 0})
}
