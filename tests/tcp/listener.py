"""A server that reads bytes and says how many it got on each connection, and whether the denied ones are among them.

argv[1], JSON: protocol, v6, backlog, options [[level, name, value]], pause (before the first accept), wait (for
SIGUSR1 before it), close or shut (its side,
after so many bytes).
"""

import hashlib
import itertools
import json
import os
import signal
import socket
import sys
import threading
import time

DENIED = b"evilA"
IPPROTO_MPTCP = 262
o = json.loads(sys.argv[1])


def serve(c, number):
    try:
        multipath = c.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL) == IPPROTO_MPTCP
    except OSError:
        multipath = False
    total, digest, evil, tail = 0, hashlib.sha256(), False, b""
    shut = o.get("shut")
    while True:
        try:
            data = c.recv(1 << 20)
        except OSError:
            data = b""
        total += len(data)
        digest.update(data)
        tail = tail[-len(DENIED) :] + data
        evil = evil or DENIED in tail
        line = {"connection": number, "bytes": total, "evil": evil, "mptcp": multipath}
        # one system call: threads must not mix their lines
        os.write(1, (json.dumps({**line, "sha256": digest.hexdigest()}) + "\n").encode())
        if not data or total >= o.get("close", 1 << 62):
            return c.close()
        if shut and total >= shut:
            shut = None
            c.shutdown(socket.SHUT_WR)


v6 = o.get("v6", False)
listener = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_STREAM, o.get("protocol", 0))
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
for level, name, value in o.get("options", []):
    listener.setsockopt(level, name, value)
listener.bind(("::" if v6 else "0.0.0.0", 50051))
listener.listen(o.get("backlog", 64))
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
print("listening", flush=True)
if o.get("wait"):
    signal.sigwait([signal.SIGUSR1])
time.sleep(o.get("pause", 0))
for number in itertools.count():
    client, _ = listener.accept()
    threading.Thread(target=serve, args=(client, number), daemon=True).start()
