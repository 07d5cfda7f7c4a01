#!/usr/bin/env python3
"""Conversations of hyper-h2's client, at random: `hyper_h2.py SEED COUNT`, a JSON object a line.

`server` is the hex of what the server said first, `client` that of all that the client wrote.
"""

import json
import random
import sys

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes

PATHS = ["/echo.Echo/Unary", "/echo.Echo/ClientStream", "/echo.Echo/Bidi", "/search.SearchService/Search", "/login.LoginService/Login",
         "/echo.Echo/Slow", "/health.Health/Check", "/t.T/M"]
ROLES = ["admin", "guest", "user", "rooted", "watched", "", "bad"]
TEXTS = ["", "a", "ab", "xAy", "no", "bad", "x", "abcd", "é", "a longer text"]


def field(number, value):
    if isinstance(value, int):
        return bytes([number << 3]) + varint(value)
    return bytes([number << 3 | 2]) + varint(len(value)) + value


def varint(value):
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out) + bytes([value])


def message(dice):
    parts = [lambda: field(1, dice.choice(TEXTS).encode()), lambda: field(2, dice.randrange(200) if dice.random() < 0.5 else b"zz"),
             lambda: field(4, dice.choice([0, 7, 2**64 - 1])), lambda: field(15, b"q" * dice.randrange(900))]
    body = b"".join(dice.choice(parts)() for _ in range(dice.randrange(5)))
    return b"\0" + len(body).to_bytes(4, "big") + body


def headers(dice):
    out = [(":method", "POST"), (":scheme", "http"), (":path", dice.choice(PATHS)), (":authority", "localhost"), ("te", "trailers"),
           ("content-type", "application/grpc")]
    for _ in range(dice.randrange(5)):
        name = dice.choice(["x-role", "x-tenant", "x-trace", "user-agent", "x-long"])
        value = "v" * dice.randrange(9000 if dice.random() < 0.1 else 90) if name == "x-long" else dice.choice(ROLES)
        out.append((name, value))
    return out


def conversation(dice):
    client = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
    server = H2Connection(H2Configuration(client_side=False))
    server.initiate_connection()
    server.update_settings({SettingCodes.HEADER_TABLE_SIZE: dice.choice([0, 100, 1000, 4096, 8192]),
                            SettingCodes.INITIAL_WINDOW_SIZE: 1 << 20, SettingCodes.MAX_FRAME_SIZE: dice.choice([16384, 20000])})
    server.increment_flow_control_window(1 << 28)
    said = server.data_to_send()
    client.initiate_connection()
    wrote = client.data_to_send()
    client.receive_data(said)
    live = []
    for _ in range(dice.randrange(5, 120)):
        act = dice.random()
        if act < 0.45 or not live:
            stream = client.get_next_available_stream_id()
            priority = dict(priority_weight=dice.randrange(1, 257), priority_depends_on=0, priority_exclusive=dice.random() < 0.5)
            client.send_headers(stream, headers(dice), **(priority if dice.random() < 0.3 else {}))
            live.append(stream)
        elif act < 0.85:
            stream = dice.choice(live)
            body = b"".join(message(dice) for _ in range(dice.randrange(4)))
            end = dice.random() < 0.4
            while body:
                cut = dice.randrange(1, len(body) + 1)
                pad = dice.randrange(256) if dice.random() < 0.3 else None
                client.send_data(stream, body[:cut], pad_length=pad)
                body = body[cut:]
            if end:
                trailers = dice.random() < 0.3
                client.send_headers(stream, [("x-end", "yes")], end_stream=True) if trailers else client.end_stream(stream)
                live.remove(stream)
        elif act < 0.89:
            client.reset_stream(live.pop(dice.randrange(len(live))), 8)
        elif act < 0.92:
            client.ping(b"protocg!")
        elif act < 0.95:
            client.prioritize(client.get_next_available_stream_id() + 100, weight=dice.randrange(1, 257))
        elif act < 0.98:
            client.increment_flow_control_window(dice.randrange(1, 1000))
        else:
            client.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: dice.randrange(1, 1 << 20)})
        if dice.random() < 0.5:
            wrote += client.data_to_send()
    wrote += client.data_to_send()
    return {"server": said.hex(), "client": wrote.hex()}


dice = random.Random(int(sys.argv[1]))
for _ in range(int(sys.argv[2])):
    print(json.dumps(conversation(dice)))
