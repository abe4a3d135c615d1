package steal

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/mirrord-go/mirrord/internal/agent/sockmark"
)

// afterDNAT places our chain behind all address translation (NF_IP_PRI_NAT_DST is -100), so
// that ports are what the socket lookup sees: a mesh's redirect to its sidecar stays, and
// the sidecar's own connection to the application is the one taken.
const afterDNAT nftables.ChainPriority = -99

// nftTables is the [NFTables] backend. Its table, in the words of nft(8):
//
//	table inet mirrord_steal_… {
//		flags owner
//		set ports { type inet_service; }
//		chain take {
//			type filter hook prerouting priority -99
//			meta nfproto ipv4 meta l4proto tcp fib daddr type local tcp dport @ports
//				meta mark != 0x6d tproxy ip to 127.0.0.1:LISTENER
//			(and the same for ipv6)
//		}
//	}
//
// tproxy leaves packets alone whose connection has a socket already, so it only decides
// about new connections, and nothing is rewritten.
type nftTables struct {
	conn  *nftables.Conn
	ports *nftables.Set
}

func openNFTables(listeners []*net.TCPListener) (_ backend, err error) {
	var suffix [4]byte
	_, _ = rand.Read(suffix[:]) // Never fails.
	table := &nftables.Table{Name: "mirrord_steal_" + hex.EncodeToString(suffix[:]), Family: nftables.TableFamilyINet}

	// The table belongs to the netlink socket that makes it, which is the one that all later
	// changes go through; the library can't set a table's flags.
	conn, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
		if err := makeOwnedTable(c, table); err != nil {
			return errors.Join(err, c.Close())
		}
		return nil
	}))
	if err != nil {
		return nil, err
	}
	b := &nftTables{conn: conn, ports: &nftables.Set{Table: table, Name: "ports", KeyType: nftables.TypeInetService}}
	if err := b.addRules(table, listeners); err != nil {
		return nil, errors.Join(err, b.close())
	}
	return b, nil
}

// makeOwnedTable makes a table that the kernel removes when the socket of c is closed.
func makeOwnedTable(c *netlink.Conn, t *nftables.Table) error {
	const (
		newTable  = netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWTABLE)
		flagOwner = 0x2 // NFT_TABLE_F_OWNER
	)
	attrs, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: unix.NFTA_TABLE_NAME, Data: append([]byte(t.Name), 0)},
		{Type: unix.NFTA_TABLE_FLAGS, Data: binary.BigEndian.AppendUint32(nil, flagOwner)},
	})
	if err != nil {
		return err
	}
	msg := func(typ netlink.HeaderType, flags netlink.HeaderFlags, family byte, res uint16, data []byte) netlink.Message {
		// struct nfgenmsg: family, version, resource id in network order.
		head := binary.BigEndian.AppendUint16([]byte{family, unix.NFNETLINK_V0}, res)
		return netlink.Message{Header: netlink.Header{Type: typ, Flags: netlink.Request | flags}, Data: append(head, data...)}
	}
	_, err = c.SendMessages([]netlink.Message{
		msg(unix.NFNL_MSG_BATCH_BEGIN, 0, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, nil),
		msg(newTable, netlink.Create|netlink.Excl|netlink.Acknowledge, byte(t.Family), 0, attrs),
		msg(unix.NFNL_MSG_BATCH_END, 0, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, nil),
	})
	if err == nil {
		_, err = c.Receive()
	}
	switch {
	case errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("making an nftables table that ends with this process (needs Linux 5.12): %w", err)
	case err != nil:
		return fmt.Errorf("making an nftables table (needs CAP_NET_ADMIN): %w", err)
	}
	return nil
}

func (b *nftTables) addRules(table *nftables.Table, listeners []*net.TCPListener) error {
	if err := b.conn.AddSet(b.ports, nil); err != nil {
		return fmt.Errorf("making the set of taken ports: %w", err)
	}
	policy := nftables.ChainPolicyAccept
	priority := afterDNAT
	chain := b.conn.AddChain(&nftables.Chain{
		Name: "take", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: &priority, Policy: &policy,
	})
	for _, l := range listeners {
		b.conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: b.rule(addrPort(l.Addr()))})
	}
	if err := b.conn.Flush(); err != nil {
		return fmt.Errorf("adding the rules (needs nft_tproxy and nft_fib_inet): %w", err)
	}
	return nil
}

func (b *nftTables) rule(listener netip.AddrPort) []expr.Any {
	family := byte(unix.NFPROTO_IPV6)
	if listener.Addr().Is4() {
		family = unix.NFPROTO_IPV4
	}
	native := func(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: unix.NFT_REG_1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: []byte{family}},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: unix.NFT_REG_1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: unix.NFT_REG_1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Lookup{SourceRegister: unix.NFT_REG_1, SetName: b.ports.Name, SetID: b.ports.ID},
		// Only what is for this pod: one that forwards for others must go on doing so.
		&expr.Fib{Register: unix.NFT_REG_1, ResultADDRTYPE: true, FlagDADDR: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: native(unix.RTN_LOCAL)},
		&expr.Meta{Key: expr.MetaKeyMARK, Register: unix.NFT_REG_1},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: unix.NFT_REG_1, Data: native(sockmark.Agent)},
		&expr.Immediate{Register: unix.NFT_REG_1, Data: listener.Addr().AsSlice()},
		&expr.Immediate{Register: unix.NFT_REG_2, Data: binary.BigEndian.AppendUint16(nil, listener.Port())},
		&expr.TProxy{Family: family, TableFamily: unix.NFPROTO_INET, RegAddr: unix.NFT_REG_1, RegPort: unix.NFT_REG_2},
	}
}

func (b *nftTables) steal(port uint16) error {
	if err := b.conn.SetAddElements(b.ports, element(port)); err != nil {
		return err
	}
	return b.conn.Flush()
}

func (b *nftTables) release(port uint16) error {
	if err := b.conn.SetDeleteElements(b.ports, element(port)); err != nil {
		return err
	}
	return b.conn.Flush()
}

func element(port uint16) []nftables.SetElement {
	return []nftables.SetElement{{Key: binary.BigEndian.AppendUint16(nil, port)}}
}

// pass does nothing: the rule knows our sockets by their mark.
func (b *nftTables) pass(int, netip.AddrPort) (func(), error) { return func() {}, nil }

// close closes the socket that owns the table, and the table goes with it.
func (b *nftTables) close() error { return b.conn.CloseLasting() }
