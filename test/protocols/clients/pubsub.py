"""Redis as a Python program uses it."""

import json
import sys

import redis

host, port = sys.argv[1].rsplit(":", 1)
client = redis.Redis(host=host, port=int(port))
did = []
peer = client.execute_command("CLIENT", "INFO")
peer = (peer if isinstance(peer, dict) else dict(f.split("=", 1) for f in peer.decode().split()))["addr"]
key = "python"
assert client.set(key, b"x" * 100_000) and client.get(key) == b"x" * 100_000
did.append("set and get")
sub = client.pubsub(ignore_subscribe_messages=True)
sub.subscribe("python news")
sub.get_message(timeout=300)  # the confirmation
for i in range(100):
    client.publish("python news", i)
for i in range(100):
    message = None
    while message is None:
        message = sub.get_message(timeout=300)
    assert int(message["data"]) == i, message
did.append("publish and subscribe")
print(json.dumps({"peer": peer, "did": did}))
