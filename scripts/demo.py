#!/usr/bin/env python3
"""The demo: a gRPC server under a policy, calls to it, and what their callers and its handlers got.

usage: demo.py FOLDER, the one with protocg, pg-server and pg-client. Root.
Exits with 1 if anything is not as expected.
"""

import json
import os
import pathlib
import queue
import signal
import socket
import subprocess
import sys
import threading

HERE = pathlib.Path(__file__).resolve().parent.parent
POLICY = HERE / "policies/demo/demo.toml"
ADDRESS = ("127.0.0.1", 50051)
SECONDS = 30

SEARCH, LOGIN, ECHO = "/search.SearchService/Search", "/login.LoginService/Login", "/echo.Echo/Unary"
NO_A = ("INVALID_ARGUMENT", "queries must not contain A")
SHORT = ("INVALID_ARGUMENT", "a password has at least 4 characters")
OK = ("OK", "")

# method, message, what the client has to get
CALLS = [
    (SEARCH, {"query": "bread"}, OK),
    (SEARCH, {"query": "Apples"}, NO_A),
    (SEARCH, {"query": "apples"}, OK),
    (SEARCH, {"query": "x" * 5000 + "A"}, NO_A),
    (LOGIN, {"user": "eve", "password": "abc"}, SHORT),
    (LOGIN, {"user": "eve", "password": "abcd"}, OK),
    (LOGIN, {"user": "eve"}, SHORT),
    (LOGIN, {"user": "eve", "password": "äöü"}, SHORT),
    (ECHO, {"text": "no rule allows this"}, ("PERMISSION_DENIED", "denied by policy demo: default")),
    (SEARCH, {"query": "and bread again"}, OK),
]


def fail(text):
    sys.stdout.flush()
    sys.exit(f"error: {text}")


class Server:
    """protocg and the server, as one process to start and stop, and its lines."""

    def __init__(self, folder):
        self.counts = folder / "demo-counts.json"
        self.counts.unlink(missing_ok=True)
        address = "{}:{}".format(*ADDRESS)
        server = [folder / "pg-server", "--listen", address, "--count-file", self.counts]
        command = [folder / "protocg", "run", "--events", "json", POLICY, "--", *server]
        shown = [str(word).removeprefix(f"{folder}/").removeprefix(f"{HERE}/") for word in command[:-2]]
        print(f"\n$ {' '.join(shown)}")
        # A session of its own: Ctrl-C comes here only, and the end is in order.
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        self.lines = queue.Queue()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            self.lines.put(line.strip())
        self.lines.put(None)

    def wait_until_ready(self):
        """Both have to say so: the enforcer and the server."""
        ready = listening = None
        while not (ready and listening):
            try:
                line = self.lines.get(timeout=SECONDS)
            except queue.Empty:
                fail(f"not ready after {SECONDS} s")
            if line is None:
                fail(f"protocg ended with status {self.process.wait()}")
            if line.startswith("listening"):
                listening = line
            elif line.startswith("{") and json.loads(line).get("type") == "ready":
                ready = json.loads(line)
        print(f"enforcing policy `{ready['policy']}` on {ready['cgroups'][0]} after {ready['start_ms']} ms")

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()

    def events(self):
        """What was said until the end."""
        while (line := self.lines.get(timeout=SECONDS)) is not None:
            if line.startswith("{"):
                yield json.loads(line)


def short(message):
    text = json.dumps(message, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:18]}...{text[-19:]}"


def make_calls(folder):
    """One after the other, over one channel, as a caller would."""
    command = [folder / "pg-client", "--target", "{}:{}".format(*ADDRESS)]
    client = subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    results = []
    for method, message, _ in CALLS:
        call = {"method": method, "messages": [message], "deadline_ms": SECONDS * 1000}
        print(json.dumps([call]), file=client.stdin, flush=True)
        for line in client.stdout:
            line = json.loads(line)
            if line["type"] == "done":
                break
            results.append(line)
    client.stdin.close()
    client.wait(SECONDS)
    return results


def main():
    if len(sys.argv) != 2:
        fail("usage: demo.py FOLDER")
    folder = pathlib.Path(sys.argv[1])
    if os.geteuid() != 0:
        fail("attaching programs needs root")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(ADDRESS)
        except OSError as error:
            fail(f"port {ADDRESS[1]}, which the demo's policy names, is not free: {error}")

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    server = Server(folder)
    try:
        server.wait_until_ready()
        results = make_calls(folder)
    finally:
        server.stop()

    rows = [("call", "message", "status", "message of the status", "ms")]
    wrong = []
    for (method, message, expected), result in zip(CALLS, results):
        got = (result["status"], result["message"])
        mark = "" if got == expected else "  <- WRONG"
        if mark:
            wrong.append(f"{method} {short(message)}: {got} instead of {expected}")
        rows.append((method, short(message), got[0], got[1] + mark, f"{result['latency_ms']:.1f}"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    print("\nWhat the client got:\n")
    for index, row in enumerate(rows):
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
        if index == 0:
            print("  " + "  ".join("-" * width for width in widths))

    if len(results) != len(CALLS):
        wrong.append(f"{len(results)} results instead of {len(CALLS)}")
    denied = sum(expected != OK for *_, expected in CALLS)
    decisions = [e for e in server.events() if e.get("type") == "decision" and e.get("verdict") == "deny"]
    if len(decisions) != denied:
        wrong.append(f"{len(decisions)} events of denials instead of {denied}")
    handled = handled_messages(server.counts)
    if handled != len(CALLS) - denied:
        wrong.append(f"the server's handlers saw {handled} messages instead of {len(CALLS) - denied}")
    if wrong:
        fail("not as expected:\n  " + "\n  ".join(wrong))
    print(f"\n{len(CALLS)} calls, {denied} denied in the kernel; the server's handlers saw the {handled} others only.")
    print(f"One of the events:\n\n  {json.dumps(decisions[0])}")
    server.counts.unlink()


def handled_messages(path):
    """How many messages the server's handlers were handed."""
    try:
        return sum(method["messages"] for method in json.loads(path.read_text()).values())
    except (OSError, ValueError) as error:
        fail(f"the server did not say what it saw: {error}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
