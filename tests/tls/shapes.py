"""gRPC over an OpenSSL that is called in a given way, or over GnuTLS, by ctypes.

usage: shapes.py server SHAPE FOLDER [LIBSSL]
       shapes.py client SHAPE ADDRESS:PORT TEXT... [--library LIBSSL]
       shapes.py calls SHAPE ADDRESS:PORT

The server has key.pem and cert.pem from the folder, says `listening ADDRESS:PORT`, and a line of JSON a request: how long its
message is and how it ends. It answers each with an empty message and status 0. The client makes a call with each text (N*TEXT:
with so many bytes before it) and says `answered` or, of the first that is not, `ended`. With `calls` it reads lists of calls on stdin and prints a line of JSON a call, as the
clients of tests/peers do, but makes them one after the other.
"""

import ctypes
import json
import os
import select
import socket
import sys
import threading
import time

import gnu
import h2.config
import h2.connection
import h2.events
from gnu import Ended, go_on_in_a_child

POINTER = ctypes.c_void_p
WANT_READ, WANT_WRITE = 2, 3
TLS1_2, FILE_PEM = 0x0303, 1
SET_MODE, SET_MAX_VERSION = 33, 124
PARTIAL_WRITE, MOVING_BUFFER, CLIENT_RENEGOTIATION, KEY_UPDATE_ASKED = 1, 2, 1 << 8, 1
PIECE = 1 << 16


class Library:
    """libssl, and what it needs of libcrypto."""

    POINTERS = "TLS_method SSL_CTX_new SSL_new BIO_new BIO_s_mem"

    def __init__(self, path):
        if path:
            self.ssl, self.crypto = ctypes.CDLL(path), ctypes.CDLL(None)
        else:
            # not above: it would load the other library next to the one of that path
            import mapped

            self.ssl, self.crypto = mapped.library("ssl"), mapped.library("crypto")
        self.functions = {}

    def __getattr__(self, name):
        found = self.functions.get(name)
        if not found:
            found = getattr(self.ssl, name, None) or getattr(self.crypto, name)
            found.restype = POINTER if name in self.POINTERS.split() else ctypes.c_int
            self.functions[name] = found
        return found

    def context(self, shape, folder):
        context = POINTER(self.SSL_CTX_new(POINTER(self.TLS_method())))
        if "tls12" in shape or "renegotiate" in shape:
            self.SSL_CTX_ctrl(context, SET_MAX_VERSION, ctypes.c_long(TLS1_2), None)
            self.SSL_CTX_set_options(context, ctypes.c_uint64(CLIENT_RENEGOTIATION))
        if folder:
            assert self.SSL_CTX_use_certificate_file(context, f"{folder}/cert.pem".encode(), FILE_PEM) == 1
            assert self.SSL_CTX_use_PrivateKey_file(context, f"{folder}/key.pem".encode(), FILE_PEM) == 1
            self.chosen = CHOOSE(choose)
            self.SSL_CTX_set_alpn_select_cb(context, self.chosen, None)
        else:
            self.SSL_CTX_set_alpn_protos(context, b"\x02h2", 3)
        return context


CHOOSE = ctypes.CFUNCTYPE(
    ctypes.c_int, POINTER, ctypes.POINTER(POINTER), ctypes.POINTER(ctypes.c_ubyte), POINTER, ctypes.c_uint, POINTER
)
CALLBACK = ctypes.CFUNCTYPE(None, *[ctypes.c_int] * 3, POINTER, ctypes.c_size_t, POINTER, POINTER)
NAME = ctypes.create_string_buffer(b"h2")


def choose(_ssl, out, length, _offered, _size, _argument):
    out[0] = ctypes.addressof(NAME)
    length[0] = 2
    return 0


class Tls:
    """A connection, and the way in which it is used."""

    def __init__(self, library, context, plain, shape, serving):
        self.library, self.plain, self.shape = library, plain, shape
        self.ssl = POINTER(library.SSL_new(context))
        self.buffer = ctypes.create_string_buffer(1 << 20)
        self.fed = "fed" in shape
        if self.fed:
            self.incoming, self.outgoing = (POINTER(library.BIO_new(POINTER(library.BIO_s_mem()))) for _ in range(2))
            library.SSL_set_bio(self.ssl, self.incoming, self.outgoing)
        else:
            library.SSL_set_fd(self.ssl, plain.fileno())
            plain.setblocking("waiting" not in shape)
        if "partial" in shape:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            plain.setblocking(False)
            library.SSL_ctrl(self.ssl, SET_MODE, ctypes.c_long(PARTIAL_WRITE | MOVING_BUFFER), None)
        self.until_done(lambda: (library.SSL_accept if serving else library.SSL_connect)(self.ssl))
        if "nested" in shape:
            self.other = POINTER(library.SSL_new(context))
            self.callback = CALLBACK(self.use_other)
            library.SSL_set_msg_callback(self.ssl, self.callback)

    def use_other(self, *_):
        """A call within a call."""
        self.library.SSL_peek(self.other, ctypes.create_string_buffer(1), 1)
        self.library.ERR_clear_error()

    def flush(self):
        while self.fed and (n := self.library.BIO_read(self.outgoing, self.buffer, PIECE)) > 0:
            self.plain.sendall(self.buffer.raw[:n])

    def until_done(self, call):
        while True:
            result = call()
            self.flush()
            if result > 0:
                return result
            error = self.library.SSL_get_error(self.ssl, result)
            if error == WANT_READ and self.fed:
                received = self.plain.recv(PIECE)
                if not received:
                    raise Ended
                self.library.BIO_write(self.incoming, received, len(received))
            elif error == WANT_READ:
                select.select([self.plain], [], [])
            elif error == WANT_WRITE:
                select.select([], [self.plain], [])
            else:
                raise Ended

    def counted(self, function, *arguments):
        """A call that says apart how many bytes it took or gave."""
        done = ctypes.c_size_t(0)
        self.until_done(lambda: function(self.ssl, *arguments, ctypes.byref(done)))
        return done.value

    def read(self):
        library, shape = self.library, self.shape
        size = ctypes.c_size_t(1 if "tiny" in shape else len(self.buffer))
        if "peek" in shape:
            peek = library.SSL_peek_ex if "ex" in shape else library.SSL_peek
            for half in (1, 2, 1):
                some = ctypes.c_size_t(max(1, PIECE // half))
                if "ex" in shape:
                    self.counted(peek, self.buffer, some)
                else:
                    self.until_done(lambda: peek(self.ssl, self.buffer, ctypes.c_int(some.value)))
            size = ctypes.c_size_t(5000)
        if "ex" in shape:
            n = self.counted(library.SSL_read_ex, self.buffer, size)
        else:
            n = self.until_done(lambda: library.SSL_read(self.ssl, self.buffer, ctypes.c_int(size.value)))
        return self.buffer.raw[:n]

    def pending(self):
        """Whether there is more to read that the socket does not know of."""
        return self.library.SSL_pending(self.ssl) > 0 or (self.fed and self.library.BIO_ctrl_pending(self.incoming) > 0)

    def write(self, data):
        library, shape = self.library, self.shape
        while data:
            # a partial write may be repeated from elsewhere
            piece = data[:1] if "tiny" in shape else data
            if "ex2" in shape:
                n = self.counted(library.SSL_write_ex2, piece, ctypes.c_size_t(len(piece)), ctypes.c_uint64(0))
            elif "ex" in shape:
                n = self.counted(library.SSL_write_ex, piece, ctypes.c_size_t(len(piece)))
            else:
                n = self.until_done(lambda: library.SSL_write(self.ssl, bytes(bytearray(piece)), len(piece)))
            data = data[n:]

    def refresh(self):
        """New keys or another process, in the middle of it all."""
        if "fork" in self.shape:
            go_on_in_a_child(self.plain)
        elif "update" in self.shape:
            assert self.library.SSL_key_update(self.ssl, KEY_UPDATE_ASKED) == 1
            self.until_done(lambda: self.library.SSL_do_handshake(self.ssl))
        elif "renegotiate" in self.shape:
            assert self.library.SSL_renegotiate(self.ssl) == 1
            self.until_done(lambda: self.library.SSL_do_handshake(self.ssl))


def text_of(body):
    """The text field of the message of a call, which is all there is in it."""
    at = 6
    while body[at] & 0x80:
        at += 1
    return body[at + 1 :]


def kind(shape):
    return gnu.Tls if "gnutls" in shape else Tls


class Serving:
    def __init__(self, tls):
        self.tls, self.bodies = tls, {}
        self.connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        self.connection.initiate_connection()
        tls.write(self.connection.data_to_send())

    def step(self):
        """What one read brings."""
        connection = self.connection
        for event in connection.receive_data(self.tls.read()):
            if isinstance(event, h2.events.DataReceived):
                self.bodies[event.stream_id] = self.bodies.get(event.stream_id, b"") + event.data
                connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                text = text_of(self.bodies.pop(event.stream_id, b"\0" * 8)).decode()
                os.write(1, (json.dumps({"size": len(text), "end": text[-16:]}) + "\n").encode())
                connection.send_headers(event.stream_id, [(":status", "200"), ("content-type", "application/grpc")])
                connection.send_data(event.stream_id, b"\0\0\0\0\0")
                connection.send_headers(event.stream_id, [("grpc-status", "0")], end_stream=True)
                self.tls.refresh()
        self.tls.write(connection.data_to_send())


def serve(library, shape, folder):
    context = library.context(shape, folder)
    listener = socket.create_server(("127.0.0.1", 0))
    os.write(1, "listening {}:{}\n".format(*listener.getsockname()).encode())
    open_now = {}
    lock = threading.Lock()

    def step(plain):
        with lock:
            # another thread may have read it meanwhile, or seen its end
            if plain not in open_now or not select.select([plain], [], [], 0)[0]:
                return
            try:
                open_now[plain].step()
                while open_now[plain].tls.pending():
                    open_now[plain].step()
            except (Ended, OSError):
                open_now.pop(plain).tls.plain.close()

    def take_turns(plain):
        """One of two threads that read one connection, each when it comes to it."""
        while plain in open_now:
            ready, _, _ = select.select([plain], [], [], 0.05) if plain.fileno() >= 0 else ([], [], [])
            if ready and plain in open_now:
                step(plain)

    while True:
        ready, _, _ = select.select([listener, *([] if "threads" in shape else open_now)], [], [])
        for one in ready:
            if one is not listener:
                step(one)
                continue
            plain, _ = listener.accept()
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                open_now[plain] = Serving(kind(shape)(library, context, plain, shape, True))
            except (Ended, OSError):
                plain.close()
                continue
            if "threads" in shape:
                for _ in range(2):
                    threading.Thread(target=take_turns, args=[plain], daemon=True).start()


class Calling:
    def __init__(self, library, context, shape, target):
        plain = socket.create_connection(target)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.tls = kind(shape)(library, context, plain, shape, False)
        self.connection = h2.connection.H2Connection()
        self.connection.initiate_connection()
        self.tls.write(self.connection.data_to_send())

    def call(self, text):
        connection = self.connection
        length, varint = len(text), bytearray()
        while length > 0x7F:
            varint.append(length & 0x7F | 0x80)
            length >>= 7
        message = bytes([0x0A]) + bytes([*varint, length]) + text
        left = bytes([0]) + len(message).to_bytes(4, "big") + message
        stream = connection.get_next_available_stream_id()
        method = [(":method", "POST"), (":scheme", "https"), (":authority", "a"), (":path", "/echo.Echo/Unary")]
        connection.send_headers(stream, [*method, ("content-type", "application/grpc"), ("te", "trailers")])
        while True:
            while left and (room := min(connection.local_flow_control_window(stream), connection.max_outbound_frame_size)) > 0:
                connection.send_data(stream, left[:room], end_stream=len(left) <= room)
                left = left[room:]
            self.tls.write(connection.data_to_send())
            for event in connection.receive_data(self.tls.read()):
                if isinstance(event, h2.events.DataReceived):
                    connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, (h2.events.StreamReset, h2.events.ConnectionTerminated)):
                    raise Ended
                elif isinstance(event, h2.events.StreamEnded) and event.stream_id == stream:
                    self.tls.write(connection.data_to_send())
                    self.tls.refresh()
                    return


def library_for(shape, path=None):
    return gnu.Library() if "gnutls" in shape else Library(path)


def expand(text):
    count, star, rest = text.partition("*")
    return (b"x" * int(count) + rest.encode()) if star else text.encode()


def make_calls(calling):
    for line in sys.stdin:
        for call in json.loads(line):
            text = call["messages"][0]["text"]
            text = text.encode() if isinstance(text, str) else b"x" * text["@text"]
            began = time.monotonic()
            calling.call(text)
            print(json.dumps({"type": "result", "code": 0, "latency_ms": 1000 * (time.monotonic() - began)}), flush=True)
        print(json.dumps({"type": "done"}), flush=True)


def main():
    role, shape, where, *more = sys.argv[1:]
    if role == "server":
        serve(library_for(shape, *more), shape, where)
    path = more.pop() if "--library" in more else None
    texts = [expand(text) for text in more if text != "--library"]
    library = library_for(shape, path)
    context = library.context(shape, None)
    address, _, port = where.rpartition(":")
    calling = [Calling(library, context, shape, (address, int(port))) for _ in range(3 if "many" in shape else 1)]
    if role == "calls":
        return make_calls(calling[0])

    def call(text, turn):
        calling[turn % len(calling)].call(text)
        print("answered", flush=True)

    try:
        for turn, text in enumerate(texts):
            if "threads" in shape:
                failed = []
                def run():
                    try:
                        call(text, turn)
                    except (Ended, OSError):
                        failed.append(1)
                thread = threading.Thread(target=run)
                thread.start()
                thread.join()
                if failed:
                    raise Ended
            else:
                call(text, turn)
    except (Ended, OSError):
        print("ended", flush=True)


if __name__ == "__main__":
    main()
