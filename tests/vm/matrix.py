#!/usr/bin/env python3
"""Runs the tests on several kernels, each in a virtual machine of its own, and prints what passed where.

usage: matrix.py [--full] [--only PROGRAM]... [--write-budget] [KERNEL...]

KERNEL is the beginning of a version, as kernel.sh takes it; without any: 6.1, 6.12, 6.18 and 7. The tests are built once,
here. Without --full only some of them run, see QUICK; what is left out is printed. --only: all tests of these
programs, and no others.

The verifier's work is compared with verifier-budget.txt; --write-budget writes what was found instead. Exits with 1 if a
test failed, a guest did not come to its end, a program's verification grew by more than a tenth, or a kernel refused a program
that it once took.
"""

import argparse
import collections
import concurrent.futures
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TARGET = ROOT / os.environ.get("CARGO_TARGET_DIR", "target")
VENV = pathlib.Path(os.environ.get("PROTOCG_VENV", TARGET / "peers-venv"))
WORK = TARGET / "vm"
BUDGET = HERE / "verifier-budget.txt"
KERNELS = ["6.1", "6.12", "6.18", "7"]
GROWTH = 1.10
SLOW = "10"  # how many times longer than usual the tests wait in a guest
# What each tool is in, for those who lack it.
TOOLS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "busybox": "busybox-static",
    "cpio": "cpio",
    "modprobe": "kmod",
    "xz": "xz-utils",
    "mke2fs": "e2fsprogs",
    "strip": "binutils",
}
RINGS = ["ring 0", "replay", "tcp", "live", "tls", "attacks", "agent", "guard", "scale", "soak"]
# A kernel that is booted once more, with a list of security modules that BPF is not on: it takes LSM programs, and never
# calls them.
NO_LSM, NO_LSM_LINE = "6.12", "lsm=lockdown,yama,apparmor"

# What a run without --full takes of a program: tests by the beginning or a part of their names. An emulated guest is
# 10 to 20 times slower than this machine; these are chosen so that every hook, every way in and out of the kernel and
# every stack is met once. Programs that are not named here run whole.
NO_KERNEL = "no kernel takes part: `make test` runs them here"
NONE = "(none)"  # in no name
SLOW_THERE = "too slow for a quick run in an emulated guest"
QUICK = {
    "engine": (["places::", "fixtures::frames"], NO_KERNEL),
    "policy": (["refused::several_faults", "tables::the_static_table"], NO_KERNEL),
    "tools": (["shipped::help_says"], NO_KERNEL),
    "protocg": (["kernel::", "cgroup::"], NO_KERNEL),
    "tcp": (
        [
            "a_call_in_one_segment",
            "a_denial_in_trailers",
            "a_denied_message_that_waits",
            "data_on_the_last_ack",
            "no_copy_is_passed",
            "only_pages_that_can",
            "other_bytes_ahead_of_a_hole",
            "rpcs_that_are_over_leave",
            "the_second_half_before",
            "two_cpus",
        ],
        SLOW_THERE,
    ),
    "live": (
        [
            "causes::bytes_that_are_no_http2_only",
            "egress::calls_of_tonic_between_namespaces",
            "matrix::tonic_serves_tonic::between_namespaces_over_ipv6",
            "matrix::grpcio_serves_grpcio::over_ipv4",
            "pinned::pinned_enforcement_outlives_its_agent_for_tonic",
            "received::grpcio_is_not_given_what_tonic_says",
            "responses::tonic_is_answered_for_grpcio",
        ],
        SLOW_THERE,
    ),
    "agent": (
        [
            "a_kernel_that_cannot_tell_pages",
            "a_listener_made_outside",
            "it_attaches",
            "without_btf",
        ],
        SLOW_THERE,
    ),
    "agent_reply": (["a_denied_caller", "a_connection_that_cannot_be_read"], SLOW_THERE),
    "agent_refused": ([NONE], SLOW_THERE),
    "agent_ring": ([NONE], SLOW_THERE),
    "agent_start": ([NONE], "it compares times"),
    "corpus": ([NONE], NO_KERNEL),
    "differential": ([NONE], "`replay` compares the kernel with the host build here"),
    "oracles": ([NONE], "`replay` compares the kernel with the host build here"),
    "replay": (["the_kernel_judges_as_the_host_does"], SLOW_THERE),
    "attacks": (["http2::headers_whose_padding", "path::path_without", "protobuf::groups_that"], SLOW_THERE),
    "guard": (
        [
            "containers::",
            "escape::",
            "life::the_banner",
            "report::a_go_listener",
            "report::an_egress_policy",
            "report::processes_outside",
        ],
        SLOW_THERE,
    ),
    "scale": ([NONE], SLOW_THERE),
    "tls": (
        [
            "gnutls::calls_of_a_client_of_curl",
            "guarded::code_is_not_made",
            "newer::calls_to_a_server_of_todays_go",
            "openssl::calls_of_a_client",
            "openssl::calls_to_a_server_are",
            "prefork::a_prefork_server_that_reads_large",
            "responses::answers_of_tonic",
            "shapes::a_server_of_gnutls_that_never",
            "stacks::calls_to_a_server_of_grpcio",
            "stacks::calls_to_a_server_of_node",
        ],
        SLOW_THERE,
    ),
    "soak": ([NONE], SLOW_THERE),
}


def fail(text):
    sys.exit(f"error: {text}")


def say(text):
    print(f"==> {text}", flush=True)


def column(ring, name):
    return "ring 0" if ring == "0" else name.split("_")[0]


def needed_tools():
    missing = [package for tool, package in TOOLS.items() if not shutil.which(tool, path=f"{os.environ['PATH']}:/sbin:/usr/sbin")]
    if missing:
        fail(f"missing; on Debian: apt-get install {' '.join(missing)}")


def build(full, only):
    """The image that every guest starts from; and what was left out of it."""
    WORK.mkdir(parents=True, exist_ok=True)
    programs, tree, image = WORK / "programs", WORK / "tree", WORK / "tests.img"
    subprocess.run([ROOT / "scripts/build-tests.sh", programs], check=True)
    left_out = []
    if only:
        rows = programs.read_text().splitlines(keepends=True)
        chosen = [row for row in rows if row.split("\t")[2] in only]
        unknown = set(only) - {row.split("\t")[2] for row in chosen}
        if unknown:
            fail(f"no test program is called {', '.join(sorted(unknown))}")
        programs.write_text("".join(chosen))
    elif not full:
        rows = [line.rstrip("\n") for line in programs.open()]
        programs.write_text("".join(shorten(row, left_out) for row in rows))
    say("the guests' disk")
    subprocess.run([HERE / "bundle.py", programs, tree], check=True)
    shutil.copy(programs, tree / "programs")
    rows = programs.read_text().splitlines(keepends=True)
    (tree / "programs-guard").write_text("".join(row for row in rows if row.split("\t")[2] == "guard"))
    size = int(subprocess.run(["du", "-sm", tree], check=True, capture_output=True, text=True).stdout.split()[0])
    image.unlink(missing_ok=True)
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-d", tree, image, f"{size * 5 // 4 + 256}M"], check=True, stdout=subprocess.DEVNULL)
    return image, left_out


def shorten(row, left_out):
    """A program's row with the arguments that choose what a quick run takes."""
    name, program = row.split("\t")[2:4]
    if name not in QUICK:
        return f"{row}\n"
    chosen, why = QUICK[name]

    def count(arguments):
        listed = subprocess.run([program, "--list", *arguments], check=True, capture_output=True, text=True).stdout
        return sum(line.endswith(": test") for line in listed.splitlines())

    of, missing = count([]), count([]) - count(chosen)
    if missing:
        left_out.append((name, missing, of, why))
    return f"{row}\t{' '.join(chosen)}\n" if missing < of else ""


class Run:
    """One kernel's run, and what came of it."""

    def __init__(self, kernel, boot_line="", programs="/programs"):
        self.kernel, self.boot_line, self.programs = f"{kernel} {boot_line}".strip(), boot_line, programs
        self.counts = collections.defaultdict(lambda: [0, 0, 0, 0])  # passed, failed, skipped, seconds
        self.skips = collections.Counter()
        self.verified = {}
        self.refused = ""
        self.folder = subprocess.run(
            [HERE / "kernel.sh", kernel, WORK / "kernels"], check=True, stdout=subprocess.PIPE, text=True
        ).stdout.strip()
        self.release = (pathlib.Path(self.folder) / "release").read_text().strip()
        self.log = WORK / f"{kernel}{'-other' if boot_line else ''}.log"
        self.died = 0

    def boot(self, image):
        """Runs the guest to its end."""
        say(f"{self.kernel}: {self.release}")
        results = self.log.with_suffix(".results")
        # A terminal takes no line that is too long, so the report comes in pieces.
        command = f"""
            export CARGO_TARGET_DIR={TARGET} PROTOCG_VENV={VENV} PROTOCG_TEST_SLOW={SLOW} RUST_BACKTRACE=1
            {TARGET}/debug/protocg probe --json | fold -w 500 | sed 's/^/probe\\t/; s/$/|/' >/dev/ttyS1
            cd {ROOT} && scripts/run-programs.sh {self.programs} /dev/ttyS1
        """
        started = time.monotonic()
        boot = [HERE / "boot.sh", "-a", self.boot_line, "-o", results, self.folder, image, command]
        while True:
            with self.log.open("wb") as log:
                self.failed = subprocess.run(boot, stdout=log).returncode != 0
            if self.ended() or self.died:
                break
            # Emulated kernels lock up or panic now and then (docs/vm.md). Once a guest may; its log is kept, and it is said.
            self.died += 1
            self.log.replace(self.log.with_suffix(".died.log"))
            say(f"{self.kernel}: the guest died and is started again; {self.log.with_suffix('.died.log')} has its last words")
        self.seconds = time.monotonic() - started
        say(f"{self.kernel}: {'failed' if self.failed else 'passed'} in {self.seconds:.0f} s")
        self.read(results)

    def ended(self):
        """Whether the guest came to its end, with whatever status."""
        return b"\nguest: ended with status " in self.log.read_bytes()

    def read(self, results):
        report = ""
        for line in results.read_text(errors="replace").splitlines():
            words = line.split("\t")
            if words[0] == "probe":
                report += words[1].removesuffix("|")
            elif words[0] == "skip":
                self.skips[(words[1], words[2])] += 1
            elif words[0] in ("0", "1"):
                counts = self.counts[column(words[0], words[1])]
                for index, number in enumerate(words[2:6]):
                    counts[index] += int(number)
        if report:
            report = json.loads(report)
            enforcer = report["enforcer"]
            self.verified, self.refused = dict(enforcer["verified"] + report["guard_verified"] + report["tls_verified"]), enforcer["why"]

    def cell(self, ring):
        if ring not in self.counts:
            return "-"
        passed, failed, skipped, seconds = self.counts[ring]
        parts = [f"{passed} ok"]
        if failed:
            parts.append(f"{failed} FAILED")
        if skipped:
            parts.append(f"{skipped} skipped")
        return f"{', '.join(parts)} ({seconds} s)"

    def failures(self):
        """The names of the tests that failed, from what the guest printed."""
        lines = self.log.read_text(errors="replace").splitlines()
        return sorted({line.split()[1] for line in lines if line.startswith("test ") and line.endswith("... FAILED")})


def table(rows):
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for index, row in enumerate(rows):
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
        if index == 0:
            print("  " + "  ".join("-" * width for width in widths))


def read_budget():
    """(kernel, program) to (instructions, the release that they were counted on)"""
    rows = [line.split() for line in BUDGET.read_text().splitlines() if line and not line.startswith("#")]
    return {(kernel, program): (int(number), release) for kernel, program, number, release in rows}


def write_budget(runs):
    found = read_budget()
    for run in runs:
        found = {key: value for key, value in found.items() if key[0] != run.kernel or not run.verified}
        found |= {(run.kernel, program): (number, run.release) for program, number in run.verified.items() if " " not in run.kernel}
    head = [line for line in BUDGET.read_text().splitlines() if line.startswith("#")]
    version = lambda key: ([int(part) for part in key[0].split(".")], key[1])
    rows = [f"{key[0]:<8}{key[1]:<14}{found[key][0]:>9}  {found[key][1]}" for key in sorted(found, key=version)]
    BUDGET.write_text("\n".join([*head, *rows, ""]))
    say(f"written: {BUDGET.relative_to(ROOT)}")


def compare_budget(runs):
    """Prints the verifier's work. Returns whether it is within the budget, and all was taken that once was on that kernel."""
    budget = read_budget()
    rows = [("kernel", "program", "instructions", "budget", "change")]
    good = True
    for run in runs:
        for program, number in run.verified.items():
            allowed, _ = budget.get((run.kernel.split()[0], program), (0, ""))
            change = f"{100 * (number - allowed) / allowed:+.1f} %" if allowed else "none recorded"
            if allowed and number > allowed * GROWTH:
                good = False
                change += "  <- TOO MUCH"
            rows.append((run.kernel, program, str(number), str(allowed or "-"), change))
        # Tests of the TLS plane and the guard skip where a kernel refuses their programs: on one that took them that hides a fault.
        for kernel, program in budget:
            if kernel == run.kernel and program not in run.verified:
                good = False
                rows.append((run.kernel, program, "-", str(budget[kernel, program][0]), "<- NOT LOADED"))
    print("\nWhat the verifier looked at:\n")
    table(rows)
    return good


def main():
    parser = argparse.ArgumentParser(usage=__doc__.split("usage: ")[1].split("\n")[0])
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--only", action="append")
    parser.add_argument("--write-budget", action="store_true")
    parser.add_argument("kernel", nargs="*")
    arguments = parser.parse_args()
    needed_tools()
    image, left_out = build(arguments.full, arguments.only)
    kernels = arguments.kernel or KERNELS
    runs = [Run(kernel) for kernel in kernels]
    if NO_LSM in kernels and (not arguments.only or "guard" in arguments.only):
        runs.append(Run(NO_LSM, NO_LSM_LINE, "/programs-guard"))
    # Ctrl-C ends the guests too: without this, their threads would take it for a guest's death and start it again.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # An emulator may have to be fetched: once, before several guests ask for it.
    subprocess.run([HERE / "qemu.sh", WORK], check=True, stdout=subprocess.DEVNULL)
    # Most tests keep one processor of an emulated guest busy.
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda run: run.boot(image), runs))

    print("\nTests, by kernel and ring:\n")
    rings = [ring for ring in RINGS if any(ring in run.counts for run in runs)]
    table(
        [("kernel", "release", *rings, "all")]
        + [(run.kernel, run.release, *map(run.cell, rings), f"{run.seconds:.0f} s") for run in runs]
    )
    if left_out:
        print("\nLeft out of this run (FULL=1 runs them):\n")
        for name, count, of, why in left_out:
            print(f"  {count} of the {of} tests of `{name}`: {why}")
    skips = collections.defaultdict(list)
    for run in runs:
        for what, count in run.skips.items():
            skips[what].append(run.kernel + (f" ({count} times)" if count > 1 else ""))
    if skips:
        print("\nSkipped:\n")
        for (name, why), kernels in skips.items():
            print(f"  {name}: {why}: on {', '.join(kernels)}")
    for run in runs:
        if run.died:
            print(f"\nOn {run.kernel} a guest died and was started again: {run.log.with_suffix('.died.log')}")
        if run.failed:
            print(f"\nFAILED on {run.kernel}; all that the guest printed is in {run.log}")
            if run.refused:
                print(f"  the enforcer does not load: {run.refused}")
            for name in run.failures():
                print(f"  {name}")
    if arguments.write_budget:
        write_budget(runs)
        within = True
    else:
        within = compare_budget(runs)
    if not within:
        print("\nThe verification of a program has grown by more than a tenth, or a kernel refuses one that it took. If that has to be: `make vm-budget`.")
    return 0 if within and not any(run.failed for run in runs) else 1


if __name__ == "__main__":
    sys.exit(main())
