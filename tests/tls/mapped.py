"""The OpenSSL that Python's own `ssl` uses: what an image has installed otherwise may be another one, or not be found."""

import ctypes
import ssl  # it maps the libraries


def library(name):
    with open("/proc/self/maps") as maps:
        files = {line.split(maxsplit=5)[-1].rstrip("\n") for line in maps}
    return ctypes.CDLL(next(file for file in files if f"/lib{name}.so" in file))
