"""A client that connects, asks, and says all that comes.

argv[1], JSON: `to`, an address and a port; `asks`, hexadecimal; `then`, a list of [N, HEX]: what it sends once N bytes have come;
`closes`, whether it closes its side behind `asks`; `protocol`.
"""

import errno
import json
import socket
import sys
import time


def say(**line):
    print(json.dumps(line), flush=True)


o = json.loads(sys.argv[1])
caller = socket.socket(socket.AF_INET, socket.SOCK_STREAM, o.get("protocol", 0))
got, then = b"", o.get("then", [])
try:
    caller.connect(tuple(o["to"]))
    say(connected=True)
    caller.sendall(bytes.fromhex(o["asks"]))
    if o.get("closes"):
        caller.shutdown(socket.SHUT_WR)
    while True:
        while then and len(got) >= then[0][0]:
            caller.sendall(bytes.fromhex(then.pop(0)[1]))
        data = caller.recv(1 << 16)
        if not data:
            say(ended="eof")
            break
        got += data
        say(got=got.hex())
except OSError as error:
    say(ended=errno.errorcode.get(error.errno, str(error)))
time.sleep(120)
