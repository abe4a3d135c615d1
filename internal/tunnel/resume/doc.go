// Package resume gives the ends of a tunnel a connection that outlives its carriers.
//
// A carrier is whatever connects the two sides for a while: a port-forward, a connection through
// the operator. It breaks when the network changes, a laptop sleeps, an API server is
// restarted. Over it lies a [Conn]: each side keeps what the other has not acknowledged; when the
// carrier breaks, the client dials another, both say how much they have received, and go on
// at that byte. Whoever uses the Conn notices that it takes a while, and nothing else. When no
// carrier comes within the grace period the Conn ends on both sides.
//
// The layer above authenticates the two ends, on the first carrier, and hands both a secret
// that only they know ([Conn.Bind]). From then on the Conn can be resumed, and only by who knows that
// secret: with fresh numbers of both sides in each proof, so that a recorded
// one is worth nothing. Before, a carrier that breaks is just a connection that failed. Frames are
// not authenticated; the layer above does that for all bytes that it carries. So who sits on the
// path of a carrier and alters bytes can end the connection, as with TLS alone, but not read, change, or
// take over what it carries.
//
// A Conn costs little: what is written is copied once, into the memory that keeps it; acknowledgements
// travel with data that goes the other way; there is no goroutine between the carrier and who reads
// or writes, and one timer for all. Memory is taken while something is unacknowledged,
// up to [Options].Window, and then Write waits.
//
// internal/tunnel/SPEC.md has the frames and the handshake.
package resume
