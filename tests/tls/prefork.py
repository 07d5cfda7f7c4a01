"""A gRPC server over Python's ssl (OpenSSL on the socket itself, SSL_read_ex), with two processes that accept.

usage: prefork.py FOLDER BYTES [pieces | late SECONDS]; the folder has key.pem and cert.pem. Reads so many bytes a call; answers each request
with no message and status 0. Says `listening ADDR:PORT`, and a line of JSON a request, or of each piece as soon as it is read; `late` reads
only so long after the handshake, and says when it is through.
"""

import json
import os
import socket
import ssl
import sys
import time

import h2.config
import h2.connection
import h2.events


PIECES = sys.argv[3:] == ["pieces"]
LATE = float(sys.argv[4]) if sys.argv[3:4] == ["late"] else 0


def say(event, body):
    os.write(1, (json.dumps({"event": event, "pid": os.getpid(), "body": body.decode("latin-1")}) + "\n").encode())


def answer(connection, stream):
    connection.send_headers(stream, [(":status", "200"), ("content-type", "application/grpc")])
    connection.send_data(stream, b"\0\0\0\0\0")
    connection.send_headers(stream, [("grpc-status", "0")], end_stream=True)


def serve(encrypted, size):
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    connection.initiate_connection()
    encrypted.sendall(connection.data_to_send())
    bodies = {}
    while received := encrypted.recv(size):
        if PIECES:
            say("piece", received)
        for event in connection.receive_data(received):
            if isinstance(event, h2.events.DataReceived):
                bodies[event.stream_id] = bodies.get(event.stream_id, b"") + event.data
                connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                say("request", bodies.pop(event.stream_id, b""))
                answer(connection, event.stream_id)
        encrypted.sendall(connection.data_to_send())


def read_late(encrypted, size):
    time.sleep(LATE)
    try:
        while received := encrypted.recv(size):
            say("piece", received)
    except OSError:
        pass
    say("over", b"")


def main():
    folder, size = sys.argv[1], int(sys.argv[2])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{folder}/cert.pem", f"{folder}/key.pem")
    context.set_alpn_protocols(["h2"])
    listener = socket.create_server(("127.0.0.1", 0))
    os.write(1, "listening {}:{}\n".format(*listener.getsockname()).encode())
    os.fork()
    while True:
        plain, _ = listener.accept()
        try:
            with context.wrap_socket(plain, server_side=True) as encrypted:
                (read_late if LATE else serve)(encrypted, size)
        except OSError:
            pass


main()
