"""The shop (shop/main.go) in Python."""
import os
import socket
import sys
import threading

VERSION = "v1"


def answer(line):
    with socket.create_connection(("shop.demo.svc.cluster.local", 7000)) as c, c.makefile("rw") as f:
        print(line, file=f, flush=True)
        return f.readline().strip()


def serve(c, peer):
    with c, c.makefile("rw") as f:
        for line in f:
            line = line.strip()
            if line == "bye":
                print("bye", file=f, flush=True)
                os._exit(0)
            reply = answer(line)
            print(f"python {VERSION} asked by {peer}; {reply}", file=f, flush=True)


listener = socket.create_server(("", int(sys.argv[1])))
print("listening", VERSION, flush=True)
while True:
    client, address = listener.accept()
    threading.Thread(target=serve, args=(client, address[0])).start()
