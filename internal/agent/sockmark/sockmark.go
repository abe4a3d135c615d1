// Package sockmark holds the one firewall mark (SO_MARK, socket(7)) that the agent puts on
// its sockets in a target's network namespace, so that its parts know their own traffic:
// steal lets marked connections pass to the application and spares marked sockets, mirror
// does not report marked packets a second time.
//
// A mark never leaves the namespace: the kernel clears it when a packet crosses to another.
package sockmark

// Agent is the mark. Only the lowest seven bits are used, because others give meanings to
// single bits above them, which matters for pods in the host's network: 0x80 (AWS VPC CNI),
// 0xf00 (Cilium), 0x4000 and 0x8000 (kube-proxy), 0xffff0000 (Calico).
const Agent = 0x6d
