#!/usr/bin/env python3
"""Checks that every test that docs/threat-model.md names in a table, as `file::name`, exists, and that it names every attempt to
get around the guard.

A column counts whose head is "test" or "tests". A name's parts before the last are the file's or folder's: `holes::x` is
`fn x` in a file tests/**/holes.rs or below tests/**/holes/. In running text each `file::name` of a tests/ file counts too.
An attempt is a row of a table in tests/peers/src/escape/mod.rs that belongs to a way; each has its place in one row of the document.
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
NAME = re.compile(r"`((?:[a-z_0-9]+::)*[a-z_0-9]+)`")
SOURCES = [*ROOT.glob("tests/**/*.rs"), *ROOT.glob("fuzz/**/*.rs"), *ROOT.glob("src/**/*.rs")]
TEXTS = {path: path.read_text() for path in SOURCES if "target" not in path.parts}
STEMS = {path.stem for path in TEXTS}
ESCAPES = (ROOT / "tests/peers/src/escape/mod.rs").read_text()
ATTEMPTS = re.findall(r'\b(?:attempt|unheard)\(\s*"[a-z_]+",\s*"([a-z_0-9]+)",', ESCAPES)


def exists(name):
    *folders, last = name.split("::")
    if not folders and last in ATTEMPTS:
        return True
    word = re.compile(rf"\bfn {last}\b|\b{last}:\s")  # a macro may make tests of `name: arguments`
    for path, text in TEXTS.items():
        parts = {path.stem, *path.relative_to(ROOT).parts}
        nested = all(f in parts or re.search(rf"\bmod {f}\b", text) for f in folders)
        if nested and word.search(text):
            return True
    return False


def named(text):
    """Names of tests, each with its line's number."""
    column = None
    for number, line in enumerate(text.splitlines(), 1):
        if not line.startswith("|"):
            column = None
            for name in NAME.findall(line):
                if "::" in name and name.split("::")[0] in STEMS:
                    yield number, name
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if column is None:
            column = next((i for i, cell in enumerate(cells) if cell.lower() in ("test", "tests")), -1)
        elif 0 <= column < len(cells):
            for name in NAME.findall(cells[column]):
                yield number, name


bad = 0
for document in sorted(ROOT.glob("docs/threat-model.md")):
    names = list(named(document.read_text()))
    for number, name in names:
        if not exists(name):
            bad += 1
            print(f"{document.relative_to(ROOT)}:{number}: there is no test `{name}`", file=sys.stderr)
    for attempt in ATTEMPTS:
        times = sum(name == attempt for _, name in names)
        if times != 1:
            bad += 1
            print(f"{document.relative_to(ROOT)}: the attempt `{attempt}` is in {times} rows", file=sys.stderr)
sys.exit(bad > 0)
