// Package mirror copies what clients send to a pod's application, without the application's
// traffic passing through us: a packet socket sees the pod's packets, a filter in the kernel
// keeps those of the wanted ports, and the client's half of each TCP connection is put
// together again. It works inside the pod's network namespace: the whole process that calls
// [Open] runs in it, with CAP_NET_RAW over it.
//
// The copy costs the application nothing but the kernel's copying. Whatever can't be kept up
// with ends the copy, never the original: a reader that is too slow gets a [SlowError], bytes
// that the packet socket missed a [GapError]. A copied stream is never patched: its bytes are
// the client's from the first to the last that [Conn.Read] returns.
//
// A connection is copied from its handshake on. One that is open already when its port is
// added, or whose copy ended early, joins at its next HTTP/1 request, so that clients that
// keep their connections are copied at once.
//
// A port can have several owners, the sessions that want it. The packets are captured and put
// together once; each owner has its own copy, which it may read slowly or close without the
// others noticing. One that comes later joins open connections at their next HTTP/1 request.
//
// The packets are those that enter the pod: before address translation in the pod, and
// before the application's kernel has checked or ordered them. Under a service mesh that
// redirects a port to its sidecar, the copy of that port is what arrived at the pod, and what
// the sidecar sends to the application over loopback is a connection of its own.
package mirror
