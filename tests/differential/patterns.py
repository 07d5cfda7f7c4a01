"""Which texts each pattern matches, by RE2 itself: {"patterns": [...], "texts": [...]} in, a row of booleans for each pattern out;
null for a pattern that RE2 refuses."""

import json
import sys

import re2

asked = json.load(sys.stdin)
options = re2.Options()
options.log_errors = False
rows = []
for pattern in asked["patterns"]:
    try:
        compiled = re2.compile(pattern, options)
        rows.append([compiled.search(text) is not None for text in asked["texts"]])
    except re2.error:
        rows.append(None)
json.dump(rows, sys.stdout)
