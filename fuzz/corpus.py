#!/usr/bin/env python3
"""The corpus that is kept: inputs one after the other, each behind its length in two bytes (big-endian), shortest first.

usage: corpus.py unpack FILE DIR    a file for each input
       corpus.py pack FILE DIR      the files of DIR that are no longer than 65,535 bytes
"""

import hashlib
import pathlib
import sys


def unpack(packed, folder):
    data = packed.read_bytes() if packed.exists() else b""
    at = 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 2], "big")
        one = data[at + 2 : at + 2 + length]
        (folder / hashlib.sha1(one).hexdigest()).write_bytes(one)
        at += 2 + length


def pack(packed, folder):
    inputs = {path.read_bytes() for path in folder.iterdir() if path.stat().st_size < 65536}
    packed.write_bytes(b"".join(len(one).to_bytes(2, "big") + one for one in sorted(inputs, key=lambda i: (len(i), i))))
    print(f"{packed}: {len(inputs)} inputs, {packed.stat().st_size} bytes")


verb, file, folder = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
folder.mkdir(parents=True, exist_ok=True)
{"pack": pack, "unpack": unpack}[verb](file, folder)
