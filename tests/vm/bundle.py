#!/usr/bin/env python3
"""Makes the folder tree that tests run from in a virtual machine: built here, run there, whatever is installed there.

usage: bundle.py LIST TREE

LIST is what scripts/programs.py writes. TREE gets its programs without their debug information, protocg, the peers,
the repository's files, Python with the peers' environment, the peers of node and Go, and the tools that tests call, each at
the path that it has here and with the shared libraries that it needs. A tool that this machine lacks is left out: the
tests that call it say that they are skipped.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = ROOT / os.environ.get("CARGO_TARGET_DIR", "target")
VENV = pathlib.Path(os.environ.get("PROTOCG_VENV", TARGET / "peers-venv"))

# Built beside the test programs.
BINARIES = ["protocg", "pg-server", "pg-client", "pg-escape"]
# Called by tests, with options that busybox does not have; and what starts others, for busybox starts its own.
TOOLS = "bash sh env timeout unshare setpriv mount umount ip tc ethtool bpftool clang node nghttp runc crun strip".split()
# Loaded by tests.
LIBRARIES = ["libgnutls.so.30", "libcurl-gnutls.so.4"]
# Below the target directory: what the setup scripts of tests/peers make.
PEERS = ["peers-js/node_modules", "peers-go/pg-go", "peers-go/pg-go-newer", "peers-go/pg-listen"]
# The same, of tests/differential, which are made when its tests first run.
PEERS += ["differential-venv"]
# A user that is not root, names of this host.
FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}
FOLDERS = ["bin", "sbin", "dev", "proc", "sys", "run", "tmp", "root", "mnt", "var"]


def fail(text):
    sys.exit(f"error: {text}")


def is_elf(path):
    with open(path, "rb") as file:
        return file.read(4) == b"\x7fELF"


class Tree:
    def __init__(self, top):
        self.top = top
        self.resolved = set()

    def at(self, path):
        return self.top / str(path).lstrip("/")

    def copy(self, source, to=None, stripped=False):
        """A file, with the libraries that it needs."""
        source = pathlib.Path(source)
        target = self.at(to or source)
        if target.exists():
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        if stripped:
            subprocess.run(["strip", "--strip-debug", "-o", target, source], check=True)
        else:
            shutil.copy2(source, target)
        self.libraries(source)

    def copy_tree(self, source, ignore=()):
        target = self.at(source)
        target.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*ignore))
        for folder, _, names in os.walk(source):
            for name in names:
                path = pathlib.Path(folder, name)
                if (".so" in name or os.access(path, os.X_OK)) and self.at(path).is_file() and is_elf(path):
                    self.libraries(path)

    def libraries(self, path):
        real = os.path.realpath(path)
        if real in self.resolved or not is_elf(real):
            return
        self.resolved.add(real)
        said = subprocess.run(["ldd", real], capture_output=True, text=True).stdout
        for library in re.findall(r"(?:=> |^\s*)(/\S+)", said, re.MULTILINE):
            self.copy(os.path.normpath(library))

    def python(self):
        """The interpreter that the peers' environment is made for, its library, and the environment."""
        code = "import sys, sysconfig as s; print(s.get_path('stdlib'), s.get_path('platstdlib'), sys.base_prefix)"
        interpreter = VENV / "bin/python3"
        stdlib, platform, _ = subprocess.run(
            [interpreter, "-I", "-c", code], check=True, capture_output=True, text=True
        ).stdout.split()
        for folder in {stdlib, platform}:
            self.copy_tree(folder, ["test", "tests", "idlelib", "tkinter", "ensurepip", "lib2to3", "config-*", "site-packages"])
        self.copy_tree(VENV, ["pip", "pip-*", "setuptools", "setuptools-*"])
        # The environment's interpreter is a link, or a chain of links, to the real one.
        link = interpreter
        while link.is_symlink():
            link = pathlib.Path(os.path.normpath(link.parent / os.readlink(link)))
            if not self.at(link).exists():
                self.copy(link)
        if not self.at("/usr/bin/python3").exists():
            os.symlink(link, self.at("/usr/bin/python3"))


def main():
    if len(sys.argv) != 3:
        fail("usage: bundle.py LIST TREE")
    programs = [line.rstrip("\n").split("\t") for line in open(sys.argv[1])]
    top = pathlib.Path(sys.argv[2])
    shutil.rmtree(top, ignore_errors=True)
    tree = Tree(top)
    for folder in FOLDERS:
        (top / folder).mkdir(parents=True, exist_ok=True)
    # Libraries are at both of their places where one is a link to the other.
    for folder in ["lib", "lib64"]:
        if os.path.islink(f"/{folder}") and not os.path.isabs(to := os.readlink(f"/{folder}")):
            (top / to).mkdir(parents=True, exist_ok=True)
            os.symlink(to, top / folder)
    for name, text in FILES.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(text)

    known = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(known, cwd=ROOT, check=True, capture_output=True, text=True)
    for name in filter(None, files.stdout.split("\0")):
        if (ROOT / name).is_file():
            tree.copy(ROOT / name)
    for _, _, _, program, *_ in programs:
        tree.copy(program, stripped=True)
    for name in BINARIES:
        tree.copy(TARGET / "debug" / name, stripped=True)

    known = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True).stdout
    for name in LIBRARIES:
        if found := re.search(rf"\s{re.escape(name)} .*x86-64.* => (\S+)", known):
            tree.copy(os.path.normpath(found[1]))

    for name in PEERS:
        path = TARGET / name
        if path.is_dir():
            tree.copy_tree(path)
        elif path.exists():
            tree.copy(path)

    (top / "usr/bin").mkdir(parents=True, exist_ok=True)
    busybox = shutil.which("busybox") or fail("`busybox` is missing; on Debian: apt-get install busybox-static")
    tree.copy(busybox, "bin/busybox")
    for tool in TOOLS:
        if path := shutil.which(tool):
            tree.copy(os.path.realpath(path), f"usr/bin/{tool}")
    for name in subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True).stdout.split():
        if not (top / "bin" / name).exists() and not (top / "usr/bin" / name).exists():
            os.symlink("/bin/busybox", top / "bin" / name)
    # Where `ip netns` keeps its names, and scripts' first lines look.
    os.symlink("/run", top / "var/run")
    for shell in ["bash", "sh"]:
        os.symlink(f"/usr/bin/{shell}", top / "bin" / shell)
    tree.python()


if __name__ == "__main__":
    main()
