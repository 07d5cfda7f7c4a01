"""A server that says what it is told to, the way it is told to, once a client has asked.

usage: says.py OPTIONS

OPTIONS is JSON: `port`; `greets`, whether SETTINGS come before a call does; and `says`, a list of pairs. `["send", HEX]` sends bytes at once, `["bytes", HEX]` a segment a byte, `["file", HEX]` by
sendfile(), `["urgent", HEX]` the last of them as urgent data; `["wait", SECONDS]` does nothing for a while.
"""

import json
import os
import socket
import sys
import time



def has_headers(sent):
    """Whether a client has sent HEADERS behind its preface."""
    at = 24
    while len(sent) >= at + 9:
        if sent[at + 3] == 1:
            return True
        at += 9 + int.from_bytes(sent[at : at + 3], "big")
    return False


options = json.loads(sys.argv[1])
listener = socket.create_server(("", options["port"]))
print("listening", flush=True)
client, _ = listener.accept()
client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
if options["greets"]:
    client.sendall(bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
asked = b""
while not has_headers(asked):
    asked += client.recv(65536)
try:
    for how, what in options["says"]:
        data = bytes.fromhex(what) if how != "wait" else b""
        if how == "wait":
            time.sleep(what)
        elif how == "send":
            client.sendall(data)
        elif how == "bytes":
            for byte in data:
                client.sendall(bytes([byte]))
        elif how == "urgent":
            client.send(data, socket.MSG_OOB)
        elif how == "file":
            file = os.memfd_create("says")
            os.pwrite(file, data, 0)
            os.sendfile(client.fileno(), file, 0, len(data))
    while client.recv(65536):
        pass
except OSError as error:
    print(f"ended: {error}", flush=True)
print("over", flush=True)
time.sleep(60)
