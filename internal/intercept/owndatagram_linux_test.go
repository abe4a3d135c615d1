//go:build amd64 || arm64

package intercept

import "testing"

// Datagrams between two sockets of the child on loopback stay here, in both directions, also to a port that the
// kernel chose; others go to the target's localhost. A socket that another process has is not the child's.
func TestOwnDatagrams(t *testing.T) {
	t.Parallel()
	const script = `
import os, socket, sys
family, host, far = getattr(socket, sys.argv[1]), sys.argv[2], int(sys.argv[3])
def udp():
    s = socket.socket(family, socket.SOCK_DGRAM); s.settimeout(60); return s
server = udp(); server.bind((host, 0)); port = server.getsockname()[1]
client = udp(); client.sendto(b"one", (host, port))
b, a = server.recvfrom(99); print(b, a[1] == client.getsockname()[1], a[0] == host)
server.sendto(b"answer", a); b, a = client.recvfrom(99); print(b, a[1] == port)
connected = udp(); connected.connect((host, port)); connected.send(b"two")
b, a = server.recvfrom(99); print(b, a[1] == connected.getsockname()[1])
server.sendto(b"again", a); print(connected.recv(99))
if os.fork() == 0:
    c = udp(); c.sendto(b"of a fork", (host, port)); os._exit(0)
os.wait(); print(server.recvfrom(99)[0])
client.sendto(b"?", (host, far)); print(client.recvfrom(99)[0].decode() != str(client.getsockname()[1]))
server.close(); client.close()
`
	for _, family := range [][2]string{{"AF_INET", "127.0.0.1"}, {"AF_INET6", "::1"}} {
		addr := "127.0.0.1:0"
		if family[0] == "AF_INET6" {
			addr = "[::1]:0"
		}
		n := &fakeTarget{loopback: true}
		r := launch(t, n, nil, "python3", "-c", script, family[0], family[1], serveUDP(t, addr))
		out := r.succeed()
		if want := "b'one' True True\nb'answer' True\nb'two' True\nb'again'\nb'of a fork'\nTrue\n"; out != want {
			t.Errorf("%s: output %q, want %q", family[0], out, want)
		}
		eventually(t, "closed sockets are forgotten", func() bool {
			r.udp.mu.Lock()
			defer r.udp.mu.Unlock()
			return len(r.udp.own) == 0
		})
	}
}
