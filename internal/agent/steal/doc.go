// Package steal takes new TCP connections away from a pod's application and hands them to
// the agent, by port, and gives them back. It works inside the pod's network namespace: the
// whole process that calls [Open] runs in it.
//
// Two ways of taking lead to the same result. A BPF program of type sk_lookup (Linux 5.9)
// chooses our listener when the kernel looks for the socket that a new connection belongs
// to; where that can't be loaded, an nftables table of our own does the same with tproxy.
// Neither rewrites addresses: an accepted connection has the client's real address as its
// peer and the original destination as its local address, on every address of the pod,
// loopback included. Packets of connections that exist already are not touched.
//
// Both end with the process that made them, however it ends. A BPF link that is not pinned
// goes with its last descriptor, and a table that has an owner (NFT_TABLE_F_OWNER, Linux
// 5.12) goes with the netlink socket that made it: after kill -9 the very next connection
// reaches the application again.
//
// The agent's own sockets carry [sockmark.Agent]. By the mark, [Stealer.Flush] tells them
// from the application's, and the nftables rules let [Stealer.DialTarget] pass. sk_lookup
// can't see marks; there a connection passes by its exact four addresses and ports, which
// nobody else can have while our socket is bound to them.
package steal
