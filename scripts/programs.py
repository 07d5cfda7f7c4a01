#!/usr/bin/env python3
"""Lists the test programs that `cargo test --no-run --message-format=json` built, from its output on stdin.

A line a program: its ring, its package's folder, its name, its file; separated by tabs, sorted. A program is of ring 1,
which attaches programs as root, if its source says `need_root!` or uses the peers' harness.
"""

import json
import pathlib
import sys


def ring(target):
    source = pathlib.Path(target["src_path"])
    if "test" not in target["kind"]:
        return 0
    sources = source.parent.rglob("*.rs") if source.name == "main.rs" else [source]
    texts = [s.read_text() for s in sources]
    return int(any("need_root!" in text or "harness" in text for text in texts))


rows = []
for line in sys.stdin:
    message = json.loads(line)
    if message.get("reason") != "compiler-artifact" or not message["profile"]["test"] or not message.get("executable"):
        continue
    folder = pathlib.Path(message["manifest_path"]).parent
    rows.append((ring(message["target"]), folder, message["target"]["name"], message["executable"]))
for row in sorted(rows):
    print(*row, sep="\t")
