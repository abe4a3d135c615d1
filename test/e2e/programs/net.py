"""The Python program of the end-to-end tests. See programs_test.go for its steps.

It has one more, packets, which sends two messages to a SOCK_SEQPACKET socket and shows the answers."""
import errno
import hashlib
import http.server
import json
import os
import socket
import sys

PATIENCE = 120
RESEND = 10  # seconds after which a datagram is sent again: it may be lost


def say(line):
    """Writes a line at once: programs share their output."""
    os.write(1, line.encode() + b"\n")


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        # The address that accept gave must be the one that getpeername gives.
        peer, now = self.client_address, self.connection.getpeername()
        line = json.dumps({
            "name": self.server.name, "peer": "[%s]:%d" % peer[:2] if peer == now else "%s is not %s" % (peer, now),
            "method": self.command, "path": self.path, "agent": self.headers.get("User-Agent", ""),
            "size": len(body), "sha256": hashlib.sha256(body).hexdigest(),
        })
        say(line)
        line = line.encode() + b"\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(line)))
        self.end_headers()
        self.wfile.write(line)

    do_GET = do_POST = answer

    def log_message(self, *args):
        pass


class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    allow_reuse_address = True
    request_queue_size = 128

    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


def listen(port, name):
    server = Server(("::", int(port)), Handler)
    server.name = name
    say("listening %s %s" % (name, port))
    server.serve_forever()


def get(s):
    s.sendall(b"GET / HTTP/1.0\r\n\r\n")
    with s.makefile("rb") as f:
        return f.read().decode().strip().rsplit("\n", 1)[-1]


def tcp(host, port):
    with socket.create_connection((host, int(port)), PATIENCE) as s:
        return get(s)


def local_socket(kind, name):
    s = socket.socket(socket.AF_UNIX, kind)
    s.settimeout(PATIENCE)
    s.connect("\0" + name[1:] if name.startswith("@") else name)
    return s


def unix(name):
    with local_socket(socket.SOCK_STREAM, name) as s:
        return get(s)


def packets(name):
    with local_socket(socket.SOCK_SEQPACKET, name) as s:
        s.send(b"one")
        s.send(b"two")
        return s.recv(1500).decode() + ", " + s.recv(1500).decode()


def datagram_socket(host, port):
    family, kind, proto, _, address = socket.getaddrinfo(host, int(port), type=socket.SOCK_DGRAM)[0]
    s = socket.socket(family, kind, proto)
    s.settimeout(RESEND)
    return s, address


def exchange(s, send):
    for left in reversed(range(PATIENCE // RESEND)):
        send()
        try:
            return s.recvfrom(1500)
        except TimeoutError as e:
            if e.errno or not left:
                raise


def udp(host, port):
    s, address = datagram_socket(host, port)
    with s:
        s.connect(address)
        return exchange(s, lambda: s.send(b"hello"))[0].decode()


def udpto(host, port):
    s, address = datagram_socket(host, port)
    with s:
        answer, source = exchange(s, lambda: s.sendto(b"hello", address))
        return answer.decode() if source[:2] == address[:2] else "answer from %s" % (source,)


def resolve(name):
    return " ".join(sorted({a[4][0] for a in socket.getaddrinfo(name, None)}))


STEPS = {"listen": (2, listen), "tcp": (2, tcp), "udp": (2, udp), "udpto": (2, udpto), "resolve": (1, resolve),
         "unix": (1, unix), "packets": (1, packets)}

args = sys.argv[1:]
while args:
    words, run = STEPS[args[0]]
    try:
        result = run(*args[1:1 + words])
    except socket.gaierror as e:
        result = "nxdomain" if e.errno in (socket.EAI_NONAME, socket.EAI_NODATA) else str(e)
    except TimeoutError as e:  # also ETIMEDOUT
        result = errno.errorcode[e.errno] if e.errno else "no answer"
    except OSError as e:
        result = errno.errorcode.get(e.errno, str(e))
    say(" ".join(args[:1 + words]) + "\t" + result)
    args = args[1 + words:]
