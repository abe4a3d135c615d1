package world

import (
	"fmt"
	"net"
	"net/netip"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// Namespace is a network namespace that exists as long as this process holds it.
type namespace struct {
	handle netns.NsHandle
}

// newNamespace makes a network namespace whose loopback interface is up.
func newNamespace() (*namespace, error) {
	var n namespace
	err := onOwnThread(func() (err error) {
		if n.handle, err = netns.New(); err != nil {
			return fmt.Errorf("making a network namespace: %w", err)
		}
		return loopbackUp()
	})
	if err != nil {
		n.close()
		return nil, err
	}
	return &n, nil
}

// do runs f with the namespace as the calling thread's: sockets that f opens and processes
// that f starts belong to it, for good.
func (n *namespace) do(f func() error) error {
	return onOwnThread(func() error {
		if err := netns.Set(n.handle); err != nil {
			return fmt.Errorf("entering a network namespace: %w", err)
		}
		return f()
	})
}

func (n *namespace) close() {
	if n.handle.IsOpen() {
		_ = n.handle.Close()
	}
}

// onOwnThread runs f on a thread that ends with it, so that what f changes about the thread
// reaches nothing else.
func onOwnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked
		done <- f()
	}()
	return <-done
}

func loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("finding the loopback interface: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("starting the loopback interface: %w", err)
	}
	return nil
}

const bridgeName = "cluster0"

// bridge makes the node's end of the cluster's network.
func (n *namespace) bridge(addr netip.Addr) error {
	return n.do(func() error {
		br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridgeName}}
		if err := netlink.LinkAdd(br); err != nil {
			return fmt.Errorf("making a bridge: %w", err)
		}
		return up(br, addr)
	})
}

// plug connects the namespace n to the node's bridge with an address and a default route.
func (n *namespace) plug(node *namespace, name string, addr netip.Addr) error {
	err := node.do(func() error {
		br, err := netlink.LinkByName(bridgeName)
		if err != nil {
			return fmt.Errorf("finding the bridge: %w", err)
		}
		veth := &netlink.Veth{
			LinkAttrs:     netlink.LinkAttrs{Name: "to-" + name, MasterIndex: br.Attrs().Index},
			PeerName:      "eth0",
			PeerNamespace: netlink.NsFd(n.handle),
		}
		if err := netlink.LinkAdd(veth); err != nil {
			return fmt.Errorf("connecting %s: %w", name, err)
		}
		return netlink.LinkSetUp(veth)
	})
	if err != nil {
		return err
	}
	return n.do(func() error {
		eth, err := netlink.LinkByName("eth0")
		if err != nil {
			return fmt.Errorf("finding the interface of %s: %w", name, err)
		}
		if err := up(eth, addr); err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Gw: net.IP(NodeAddr.AsSlice())})
	})
}

func up(l netlink.Link, addr netip.Addr) error {
	a := &netlink.Addr{IPNet: &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(24, 32)}}
	if err := netlink.AddrAdd(l, a); err != nil {
		return fmt.Errorf("giving %s its address: %w", l.Attrs().Name, err)
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return fmt.Errorf("starting %s: %w", l.Attrs().Name, err)
	}
	return nil
}
