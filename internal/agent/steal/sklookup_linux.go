package steal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"
)

// passLinger is how long a connection of ours stays known after it is connected. With SYN
// cookies (an application whose queue is full) the kernel looks for the listener once more,
// when the handshake's last packet arrives, and connect(2) does not wait for that.
const passLinger = 2 * time.Second

// skLookup is the [SKLookup] backend.
type skLookup struct {
	link      *link.NetNsLink
	prog      *ebpf.Program
	listeners *ebpf.Map // family's slot → our listener
	ports     *ebpf.Map // taken port → 1
	passes    *ebpf.Map // passKey → 1

	mu      sync.Mutex
	closed  bool
	entries uint64             // counts passes, to tell a reused key's entry from the old one
	passing map[passKey]uint64 // what is in passes
}

// slots of the map of listeners
const (
	slot4 uint32 = 0
	slot6 uint32 = 1
)

func openSKLookup(listeners []*net.TCPListener) (_ backend, err error) {
	// Only needed before Linux 5.11; where it fails, making the maps says why.
	_ = rlimit.RemoveMemlock()
	b := &skLookup{passing: map[passKey]uint64{}}
	defer func() {
		if err != nil {
			_ = b.close()
		}
	}()
	for _, m := range []struct {
		to   **ebpf.Map
		spec ebpf.MapSpec
	}{
		{&b.listeners, ebpf.MapSpec{Name: "mirrord_listen", Type: ebpf.SockMap, KeySize: 4, ValueSize: 8, MaxEntries: 2}},
		{&b.ports, ebpf.MapSpec{Name: "mirrord_ports", Type: ebpf.Hash, KeySize: 4, ValueSize: 4, MaxEntries: 1 << 16, Flags: unix.BPF_F_NO_PREALLOC}},
		{&b.passes, ebpf.MapSpec{Name: "mirrord_passes", Type: ebpf.Hash, KeySize: passKeyLen, ValueSize: 4, MaxEntries: 1 << 16, Flags: unix.BPF_F_NO_PREALLOC}},
	} {
		if *m.to, err = ebpf.NewMap(&m.spec); err != nil {
			return nil, fmt.Errorf("making BPF map %s (needs CAP_BPF): %w", m.spec.Name, err)
		}
	}
	for _, l := range listeners {
		if err := b.putListener(l); err != nil {
			return nil, err
		}
	}
	b.prog, err = ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "mirrord_steal",
		// None of the helpers asks for a licence.
		Type: ebpf.SkLookup, AttachType: ebpf.AttachSkLookup, Instructions: b.program(),
	})
	if err != nil {
		return nil, fmt.Errorf("loading the sk_lookup program (needs Linux 5.9, CAP_BPF and CAP_NET_ADMIN): %w", err)
	}
	ns, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("opening the network namespace: %w", err)
	}
	defer ns.Close()
	if b.link, err = link.AttachNetNs(int(ns.Fd()), b.prog); err != nil {
		return nil, fmt.Errorf("attaching the sk_lookup program (needs CAP_NET_ADMIN): %w", err)
	}
	return b, nil
}

func (b *skLookup) putListener(l *net.TCPListener) error {
	raw, err := l.SyscallConn()
	if err != nil {
		return err
	}
	slot := slot4
	if addrPort(l.Addr()).Addr().Is6() {
		slot = slot6
	}
	err = control(raw, func(fd int) error { return b.listeners.Put(slot, uint64(fd)) })
	if err != nil {
		return fmt.Errorf("putting a listener into a BPF socket map: %w", err)
	}
	return nil
}

// Offsets in struct bpf_sk_lookup (linux/bpf.h). Ports: the remote one is in network order
// in two bytes, the local one in host order in four.
const (
	ctxFamily     = 8
	ctxProtocol   = 12
	ctxRemoteIP4  = 16
	ctxRemoteIP6  = 20
	ctxRemotePort = 36
	ctxLocalIP4   = 40
	ctxLocalIP6   = 44
	ctxLocalPort  = 60
)

// Offsets from the frame pointer: a four-byte key, and a passKey.
const (
	stackKey  = -4
	stackPass = -48
)

// program is the sk_lookup program: a new TCP connection to a taken port gets our listener
// of its family, unless it is known to be ours.
func (b *skLookup) program() asm.Instructions {
	load := func(off int16, size asm.Size, stack int16) asm.Instructions {
		return asm.Instructions{asm.LoadMem(asm.R2, asm.R6, off, size), asm.StoreMem(asm.RFP, stack, asm.R2, size)}
	}
	lookup := func(m *ebpf.Map, stack int32) asm.Instructions {
		return asm.Instructions{
			asm.LoadMapPtr(asm.R1, m.FD()),
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, stack),
			asm.FnMapLookupElem.Call(),
		}
	}
	var p asm.Instructions
	add := func(ins ...asm.Instruction) { p = append(p, ins...) }

	add(asm.Mov.Reg(asm.R6, asm.R1))
	add(asm.LoadMem(asm.R2, asm.R6, ctxProtocol, asm.Word), asm.JNE.Imm(asm.R2, unix.IPPROTO_TCP, "pass"))
	add(load(ctxLocalPort, asm.Word, stackKey)...)
	add(lookup(b.ports, stackKey)...)
	add(asm.JEq.Imm(asm.R0, 0, "pass"))

	add(asm.Mov.Imm(asm.R2, 0))
	for off := int16(0); off < passKeyLen; off += 8 {
		add(asm.StoreMem(asm.RFP, stackPass+off, asm.R2, asm.DWord))
	}
	add(load(ctxRemotePort, asm.Half, stackPass+passSrcPort)...)
	add(asm.LoadMem(asm.R2, asm.R6, ctxLocalPort, asm.Word), asm.StoreMem(asm.RFP, stackPass+passDstPort, asm.R2, asm.Half))
	add(asm.LoadMem(asm.R7, asm.R6, ctxFamily, asm.Word), asm.StoreMem(asm.RFP, stackPass+passFamily, asm.R7, asm.Word))
	add(asm.JEq.Imm(asm.R7, unix.AF_INET6, "v6"), asm.JNE.Imm(asm.R7, unix.AF_INET, "pass"))

	add(load(ctxRemoteIP4, asm.Word, stackPass+passSrc)...)
	add(load(ctxLocalIP4, asm.Word, stackPass+passDst)...)
	add(asm.Mov.Imm(asm.R8, int32(slot4)), asm.Ja.Label("known"))

	add(asm.Mov.Imm(asm.R8, int32(slot6)).WithSymbol("v6"))
	for off := int16(0); off < 16; off += 4 {
		add(load(ctxRemoteIP6+off, asm.Word, stackPass+passSrc+off)...)
		add(load(ctxLocalIP6+off, asm.Word, stackPass+passDst+off)...)
	}

	known := lookup(b.passes, stackPass)
	known[0] = known[0].WithSymbol("known")
	add(known...)
	add(asm.JNE.Imm(asm.R0, 0, "pass"))
	add(asm.StoreMem(asm.RFP, stackKey, asm.R8, asm.Word))
	add(lookup(b.listeners, stackKey)...)
	add(asm.JEq.Imm(asm.R0, 0, "pass"))
	add(asm.Mov.Reg(asm.R7, asm.R0))
	add(asm.Mov.Reg(asm.R1, asm.R6), asm.Mov.Reg(asm.R2, asm.R7), asm.Mov.Imm(asm.R3, 0), asm.FnSkAssign.Call())
	add(asm.Mov.Reg(asm.R1, asm.R7), asm.FnSkRelease.Call())

	const skPass = 1
	add(asm.Mov.Imm(asm.R0, skPass).WithSymbol("pass"), asm.Return())
	return p
}

func (b *skLookup) steal(port uint16) error {
	return b.ports.Put(uint32(port), uint32(1))
}

func (b *skLookup) release(port uint16) error {
	if err := b.ports.Delete(uint32(port)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return err
	}
	return nil
}

// pass binds fd to dst's own address, which is an address of the pod, and notes the pair.
func (b *skLookup) pass(fd int, dst netip.AddrPort) (func(), error) {
	src, err := bindTo(fd, dst.Addr())
	if err != nil {
		return nil, err
	}
	if src == dst {
		return nil, errSelf
	}
	key := newPassKey(src, dst)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return func() {}, nil // Nothing is taken any more.
	}
	if err := b.passes.Put(key[:], uint32(1)); err != nil {
		return nil, fmt.Errorf("noting the connection for the sk_lookup program: %w", err)
	}
	b.entries++
	entry := b.entries
	b.passing[key] = entry
	// The timer needs no owner: after close it does nothing.
	return func() { time.AfterFunc(passLinger, func() { b.forget(key, entry) }) }, nil
}

func (b *skLookup) forget(key passKey, entry uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || b.passing[key] != entry {
		return
	}
	delete(b.passing, key)
	// It can only be missing already.
	_ = b.passes.Delete(key[:])
}

func (b *skLookup) close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	b.passing = nil
	var err error
	if b.link != nil {
		err = b.link.Close()
	}
	if b.prog != nil {
		err = errors.Join(err, b.prog.Close())
	}
	for _, m := range []*ebpf.Map{b.listeners, b.ports, b.passes} {
		if m != nil {
			err = errors.Join(err, m.Close())
		}
	}
	return err
}

// passKey is a connection's source and destination as the program sees them.
type passKey [passKeyLen]byte

// Offsets in passKey. IPv4 addresses fill the first four bytes of src and dst.
const (
	passSrc     = 0
	passDst     = 16
	passFamily  = 32
	passSrcPort = 36 // network order
	passDstPort = 38 // host order
	passKeyLen  = 40
)

func newPassKey(src, dst netip.AddrPort) (k passKey) {
	family := uint32(unix.AF_INET6)
	if src.Addr().Is4() {
		family = unix.AF_INET
	}
	copy(k[passSrc:], src.Addr().AsSlice())
	copy(k[passDst:], dst.Addr().AsSlice())
	binary.NativeEndian.PutUint32(k[passFamily:], family)
	binary.BigEndian.PutUint16(k[passSrcPort:], src.Port())
	binary.NativeEndian.PutUint16(k[passDstPort:], dst.Port())
	return k
}
