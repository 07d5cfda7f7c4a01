#!/usr/bin/env python3
"""Measures what hooks in TLS libraries cost, by stack, and writes it into docs/tls.md. As root.

usage: bench-tls.py BUILD [ROUNDS]; BUILD has protocg, pg-server and pg-client, and beside it what tests/peers set up

Each stack's client, which is outside of every cgroup, calls its server over TLS in three ways, in turn and each round in another
order: without hooks; with the server in a cgroup under a policy with one rule on a field; and with the server outside of it, while
another process of the same program is inside. Client and server have the same library's file. GnuTLS's are tests/tls/shapes.py, whose
client makes one call at a time.
"""

import datetime
import itertools
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOC = ROOT / "docs/tls.md"
BEGIN, END = "<!-- make bench-tls writes from here -->", "<!-- to here -->"
ARMS = ["without hooks", "judged", "outside"]
SMALL, LARGE = {"text": "x" * 48}, {"text": {"@text": 65536}}
SERIAL, PARALLEL, AT_ONCE = 400, 128, 8
POLICY = """
name = "bench"
proto = ["echo.proto"]
ports = [{port}]
default = "allow"
[tls]
[[deny]]
name = "no-secrets"
methods = ["/echo.Echo/*"]
when = 'request.text.contains("SECRET")'
"""


def stacks(build):
    peers = build.parent
    descriptors = tempfile.mkdtemp() + "/echo.binpb"
    subprocess.run([build / "pg-client", "--write-descriptors", descriptors], check=True)
    environment = os.environ | {"PROTOCG_DESCRIPTORS": descriptors, "NODE_PATH": str(peers / "peers-js/node_modules")}
    js, go, python = ROOT / "tests/peers/js", peers / "peers-go/pg-go", ROOT / "tests/peers/python"
    interpreter = pathlib.Path(os.environ.get("PROTOCG_VENV", peers / "peers-venv")) / "bin/python3"
    listen, target, shapes = ["--listen", "127.0.0.1:0", "--tls"], ["--target", "ADDRESS", "--tls"], ROOT / "tests/tls/shapes.py"
    return environment, {
        "tonic, OpenSSL": ([build / "pg-server", *listen], [build / "pg-client", *target]),
        "grpc-js": (["node", js / "server.js", *listen, "FOLDER"], ["node", js / "client.js", *target]),
        "grpcio": ([interpreter, python / "server.py", *listen, "FOLDER"], [interpreter, python / "client.py", *target]),
        "grpc-go": ([go, "server", *listen, "FOLDER"], [go, "client", *target]),
        "Python, GnuTLS": ([interpreter, shapes, "server", "gnutls", "FOLDER"], [interpreter, shapes, "calls", "gnutls", "ADDRESS"]),
    }


def cgroup_root():
    for line in open("/proc/self/mountinfo"):
        fields = line.split()
        if fields[fields.index("-") + 1] == "cgroup2":
            return pathlib.Path(fields[4])
    sys.exit("error: cgroup v2 is not mounted")


class Run:
    """Processes that end with it."""

    def __init__(self, environment, inside):
        self.environment, self.inside, self.processes = environment, inside, []

    def start(self, command, inside=False, **more):
        def enter():
            if inside:
                (self.inside / "cgroup.procs").write_text(str(os.getpid()))

        process = subprocess.Popen(
            [str(part) for part in command], stdout=subprocess.PIPE, text=True, env=self.environment, preexec_fn=enter, **more
        )
        self.processes.append(process)
        return process

    def server(self, command, inside):
        process = self.start(command, inside)
        for line in process.stdout:
            if line.startswith("listening "):
                # what it logs goes on being read
                subprocess.Popen(["cat"], stdin=process.stdout, stdout=subprocess.DEVNULL)
                return line.split()[1]
        sys.exit("error: a server has not started")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            process.wait()


def calls(client, message, count, grouped):
    """Makes calls, and returns each one's milliseconds, and how long all of them took."""
    call = {"method": "/echo.Echo/Unary", "messages": [message]}
    made = [call | ({"group": index // AT_ONCE} if grouped else {}) for index in range(count)]
    began = time.monotonic()
    client.stdin.write(json.dumps(made) + "\n")
    client.stdin.flush()
    times = []
    for line in client.stdout:
        result = json.loads(line)
        if result["type"] == "done":
            return times, time.monotonic() - began
        if result["code"] != 0:
            sys.exit(f"error: a call failed: {line}")
        times.append(result["latency_ms"])
    sys.exit("error: a client has ended")


def measure(stack, arm, environment, inside, folder, build):
    server, client = stack
    server = [folder if part == "FOLDER" else part for part in server]
    with Run(environment, inside) as run:
        if arm == "outside":
            run.server(server, True)
        address = run.server(server, arm == "judged")
        if arm != "without hooks":
            policy = pathlib.Path(folder, "policy.toml")
            policy.write_text(POLICY.format(port=address.rpartition(":")[2]))
            agent = run.start([build / "protocg", "run", "--events", "json", "--cgroup", inside, policy])
            ready = json.loads(agent.stdout.readline())
            while ready["type"] != "ready":
                ready = json.loads(agent.stdout.readline())
            if ready["tls"] == "none":
                sys.exit(f"error: TLS is not judged here: {ready}")
        one = run.start([address if part == "ADDRESS" else part for part in client], stdin=subprocess.PIPE)
        calls(one, SMALL, 50, False)
        times, _ = calls(one, SMALL, SERIAL, False)
        _, whole = calls(one, LARGE, PARALLEL, True)
        return {"p50": statistics.median(times), "rate": PARALLEL * LARGE["text"]["@text"] / whole / 1e6}


def spread(values):
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def table(found):
    lines = [
        "| stack | unary 50 B, p50 without hooks | judged | outside | 64 KiB, 8 at once, without hooks | judged | outside |",
        "|---|---|---|---|---|---|---|",
    ]
    for stack, arms in found.items():
        cells = [stack]
        for figure, unit in (("p50", "ms"), ("rate", "MB/s")):
            base = [round_[figure] for round_ in arms[ARMS[0]]]
            cells.append(f"{statistics.median(base):.2f} {unit}")
            for arm in ARMS[1:]:
                cells.append(spread([round_[figure] / of for round_, of in zip(arms[arm], base)]))
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def main():
    build = pathlib.Path(sys.argv[1]).resolve()
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 7
    environment, all_stacks = stacks(build)
    inside = cgroup_root() / f"protocg-bench-tls-{os.getpid()}"
    inside.mkdir()
    found = {stack: {arm: [] for arm in ARMS} for stack in all_stacks}
    load = os.getloadavg()[0]
    try:
        with tempfile.TemporaryDirectory() as folder:
            certificate = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
            certificate += ["-addext", "subjectAltName=DNS:localhost"]
            files = ["-keyout", f"{folder}/key.pem", "-out", f"{folder}/cert.pem", "-subj", "/CN=localhost"]
            subprocess.run(["openssl", *certificate, *files], check=True, stderr=subprocess.DEVNULL)
            pathlib.Path(folder, "echo.proto").write_bytes((ROOT / "tests/peers/proto/echo.proto").read_bytes())
            for round_ in range(rounds):
                for (name, stack), turn in itertools.product(all_stacks.items(), range(len(ARMS))):
                    arm = ARMS[(round_ + turn) % len(ARMS)]
                    result = measure(stack, arm, environment, inside, folder, build)
                    found[name][arm].append(result)
                    print(f"round {round_ + 1}: {name}, {arm}: {result['p50']:.3f} ms, {result['rate']:.0f} MB/s", flush=True)
    finally:
        inside.rmdir()
    today = datetime.date.today().isoformat()
    said = (
        f"`make bench-tls`, {today}, Linux {os.uname().release}, {os.cpu_count()} CPUs, {rounds} rounds, load {load:.1f} at its start. "
        "Ratios to the same round without hooks: median (least to most). *Outside*: the server is no process of the cgroup, and its "
        "library's file is hooked. Latency above 1 and throughput below 1 are the cost."
    )
    lines = [BEGIN, "", *table(found), "", said, "", END]
    text = DOC.read_text()
    DOC.write_text(re.sub(f"{BEGIN}.*{END}", lambda _: "\n".join(lines), text, flags=re.DOTALL))
    print("\n".join(lines[2:-2]))


main()
