"""A client that uses TLS in an uncommon way, or another library than OpenSSL.

usage: ways.py WAY ADDRESS PORT TEXT [HOW]; makes a call with that text. Says `answered` if it is, or `ended` when the connection is.
"""

import ctypes
import errno
import os
import signal
import socket
import ssl
import struct
import sys
import time

import h2.connection
import h2.events
import mapped

BIO_C_SET_SSL = 109
POST, POST_SIZE, HTTP_VERSION, HTTP_2_TLS, VERIFY_PEER, VERIFY_HOST = 47, 60, 84, 4, 64, 81  # libcurl's
URL, POST_DATA, HEADERS, ON_BODY, ON_HEADER = 10002, 10015, 10023, 20011, 20079
POINTER = ctypes.c_void_p


def call(text):
    message = bytes([0x0A, len(text)]) + text
    connection = h2.connection.H2Connection()
    connection.initiate_connection()
    method = [(":method", "POST"), (":scheme", "https"), (":authority", "a"), (":path", "/echo.Echo/Unary")]
    connection.send_headers(1, [*method, ("content-type", "application/grpc"), ("te", "trailers")])
    connection.send_data(1, bytes([0, 0, 0, 0, len(message)]) + message, end_stream=True)
    return connection, connection.data_to_send()


def library(name, *functions):
    found = ctypes.CDLL(name) if ".so" in name else mapped.library(name)
    for function in functions:
        getattr(found, function).restype = POINTER
    return found


def context(libssl):
    return POINTER(libssl.SSL_CTX_new(POINTER(libssl.TLS_client_method())))


def bio(plain):
    """The whole connection is a BIO."""
    libcrypto = library("crypto", "BIO_new_socket", "BIO_push")
    libssl = library("ssl", "SSL_CTX_new", "TLS_client_method", "BIO_new_ssl")
    encrypted = POINTER(libssl.BIO_new_ssl(context(libssl), 1))
    libcrypto.BIO_push(encrypted, POINTER(libcrypto.BIO_new_socket(plain.fileno(), 0)))
    libcrypto.BIO_write(encrypted, CALL, len(CALL))
    while libcrypto.BIO_read(encrypted, ctypes.create_string_buffer(100), 100) > 0:
        pass


def late_bio(plain):
    """A BIO takes over a connection whose handshake is over."""
    libcrypto = library("crypto", "BIO_new")
    libssl = library("ssl", "SSL_CTX_new", "TLS_client_method", "SSL_new", "BIO_f_ssl")
    encrypted = POINTER(libssl.SSL_new(context(libssl)))
    libssl.SSL_set_fd(encrypted, plain.fileno())
    assert libssl.SSL_connect(encrypted) == 1
    upper = POINTER(libcrypto.BIO_new(POINTER(libssl.BIO_f_ssl())))
    libcrypto.BIO_ctrl(upper, BIO_C_SET_SSL, ctypes.c_long(0), encrypted)
    libcrypto.BIO_write(upper, CALL, len(CALL))
    while libcrypto.BIO_read(upper, ctypes.create_string_buffer(100), 100) > 0:
        pass


def nested(plain):
    """A callback of one connection writes to another."""
    libssl = library("ssl", "SSL_CTX_new", "TLS_client_method", "SSL_new")
    outer, inner = (POINTER(libssl.SSL_new(context(libssl))) for _ in range(2))
    other = socket.create_connection(plain.getpeername())
    for encrypted, its in ((outer, plain), (inner, other)):
        libssl.SSL_set_alpn_protos(encrypted, b"\x02h2", 3)
        libssl.SSL_set_fd(encrypted, its.fileno())
        assert libssl.SSL_connect(encrypted) == 1

    @ctypes.CFUNCTYPE(None, *[ctypes.c_int] * 3, POINTER, ctypes.c_size_t, POINTER, POINTER)
    def write(*_):
        if not done:
            done.append(libssl.SSL_write(inner, CALL, len(CALL)))

    done = []
    libssl.SSL_set_msg_callback(outer, write)
    libssl.SSL_read(outer, ctypes.create_string_buffer(100), 100)
    assert done and done[0] <= 0, done


def implicit(plain):
    """The handshake happens within the first call that writes."""
    encrypted = settings_of_client().wrap_socket(plain, do_handshake_on_connect=False)
    try:
        encrypted.write(CALL)
        while encrypted.read(100):
            pass
    except OSError:
        pass


def settings_of_client():
    settings = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    settings.check_hostname = False
    settings.verify_mode = ssl.CERT_NONE
    settings.set_alpn_protocols(["h2"])
    return settings


def until_answered(read):
    while True:
        received = read()
        if not received:
            return
        for event in CONNECTION.receive_data(received):
            if isinstance(event, h2.events.StreamEnded):
                print("answered", flush=True)
                sys.exit()


def split(plain):
    """The handshake's beginning goes in segments of a byte each."""
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    settings = settings_of_client()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    encrypted = settings.wrap_bio(incoming, outgoing)

    def until_done(what):
        while True:
            try:
                result = what()
            except ssl.SSLWantReadError:
                result = None
            for byte in outgoing.read():
                plain.sendall(bytes([byte]))
            if result is not None:
                return result
            received = plain.recv(65536)
            if not received:
                raise OSError("ended")
            incoming.write(received)

    try:
        until_done(lambda: encrypted.do_handshake() or True)
        until_done(lambda: encrypted.write(CALL))
        until_answered(lambda: until_done(lambda: encrypted.read(65536)))
    except OSError:
        pass


class Code:
    """What this process has of the function that writes."""

    HOOK, PAGE, READ, WRITE, EXEC, GIVE_BACK = 0xCC, 4096, 1, 2, 4, 4
    ATTACH, POKE, DETACH = 16, 4, 17
    # what is hooked last (src/kernel/tls/plan.rs)
    LAST = "SSL_free", "SSL_clear", "BIO_new_ssl", "BIO_new_buffer_ssl_connect"

    def __init__(self):
        maps = [line.split() for line in open("/proc/self/maps")]
        libssl = next(path for *_, path in maps if "libssl" in path)
        place = lambda name: ctypes.cast(getattr(ctypes.CDLL(libssl), name), POINTER).value
        self.at, self.last = place("SSL_write_ex"), [place(name) for name in self.LAST]
        self.page = POINTER(self.at & -self.PAGE)
        for area, _, offset, *_ in maps:
            first, last = (int(end, 16) for end in area.split("-"))
            if first <= self.at < last:
                with open(libssl, "rb") as file:
                    file.seek(self.at - first + int(offset, 16))
                    self.was = file.read(8)
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, POINTER, ctypes.c_ulong]

    def hooked(self):
        return self.is_hook(self.at)

    def hooked_whole(self):
        return all(map(self.is_hook, self.last))

    def is_hook(self, at):
        return ctypes.string_at(at, 1)[0] == self.HOOK

    def call(self, function, *arguments):
        if getattr(self.libc, function)(*arguments) == -1:
            raise OSError(ctypes.get_errno(), function)

    def made_writable(self):
        self.call("mprotect", self.page, self.PAGE, self.READ | self.WRITE | self.EXEC)
        ctypes.memmove(self.at, self.was, 1)

    def by_memory(self):
        with open("/proc/self/mem", "r+b", buffering=0) as memory:
            memory.seek(self.at)
            memory.write(self.was[:1])

    def by_tracer(self):
        """A child of this process traces it."""
        target, child = os.getpid(), os.fork()
        if child == 0:
            try:
                self.call("ptrace", self.ATTACH, target, None, 0)
                os.waitpid(target, 0x40000000)  # __WALL
                self.call("ptrace", self.POKE, target, self.at, int.from_bytes(self.was, "little"))
                self.call("ptrace", self.DETACH, target, None, 0)
                os._exit(0)
            except OSError as e:
                os._exit(e.errno)
        error = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if error:
            raise OSError(error, "ptrace")

    def given_back(self):
        """The page is as it is in the file when it is needed again."""
        self.call("madvise", self.page, self.PAGE, self.GIVE_BACK)


def unhooked(plain):
    """The hook is taken out of the library's code when the handshake is over."""
    code = Code()
    while not code.hooked_whole():
        time.sleep(0.01)
    encrypted = settings_of_client().wrap_socket(plain)
    try:
        getattr(code, sys.argv[5])()
        print("unhooked" if not code.hooked() else "still hooked", flush=True)
    except OSError as e:
        print(f"refused: {errno.errorcode[e.errno]}", flush=True)
    try:
        encrypted.write(CALL)
    except OSError:
        return
    # The answer is not read: hooks for reading may be gone too, and what is read past them ends the connection.
    print("written", flush=True)
    signal.pause()


def again(plain):
    """A connection that is dead is written to again and again. Says how long each of these calls took, in milliseconds."""
    encrypted = settings_of_client().wrap_socket(plain)
    for _ in range(20):
        began = time.monotonic()
        try:
            encrypted.write(CALL)
        except OSError:
            print(f"{1000 * (time.monotonic() - began):.2f}", flush=True)


def reset(plain):
    """The connection is reset as soon as the call has arrived."""
    encrypted = settings_of_client().wrap_socket(plain)
    encrypted.write(CALL)
    time.sleep(0.5)
    encrypted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    encrypted.close()


def rustls(plain):
    """Another connection, by reqwest."""
    from pyreqwest.client import SyncClientBuilder

    with SyncClientBuilder().danger_accept_invalid_certs(True).build() as client:
        try:
            client.post("https://{}:{}/echo.Echo/Unary".format(*plain.getpeername())).body_bytes(CALL).build().send()
            print("answered", flush=True)
        except Exception as e:  # its own kinds, by how the connection ended
            print(f"{type(e).__name__}: {e}", flush=True)


def curl(plain):
    """Another connection, by libcurl over GnuTLS."""
    libcurl = library("libcurl-gnutls.so.4", "curl_easy_init", "curl_slist_append")
    handle, lines, headers = POINTER(libcurl.curl_easy_init()), [], None
    for header in (b"content-type: application/grpc", b"te: trailers"):
        headers = POINTER(libcurl.curl_slist_append(headers, header))
    message = bytes([0x0A, len(sys.argv[4])]) + sys.argv[4].encode()
    body = bytes([0, 0, 0, 0, len(message)]) + message

    @ctypes.CFUNCTYPE(ctypes.c_size_t, POINTER, ctypes.c_size_t, ctypes.c_size_t, POINTER)
    def take(data, size, count, _):
        lines.append(ctypes.string_at(data, size * count))
        return size * count

    integers = {POST: 1, POST_SIZE: len(body), HTTP_VERSION: HTTP_2_TLS, VERIFY_PEER: 0, VERIFY_HOST: 0}
    pointers = {
        URL: "https://{}:{}/echo.Echo/Unary".format(*plain.getpeername()).encode(),
        POST_DATA: body,
        HEADERS: headers,
        ON_HEADER: take,
        ON_BODY: take,
    }
    for option, value in integers.items():
        libcurl.curl_easy_setopt(handle, option, ctypes.c_long(value))
    for option, value in pointers.items():
        libcurl.curl_easy_setopt(handle, option, value)
    print(f"libcurl says {libcurl.curl_easy_perform(handle)}", flush=True)
    if b"grpc-status: 0\r\n" in lines:
        print("answered", flush=True)


CONNECTION, CALL = call(sys.argv[4].encode())
WAYS = {way.__name__: way for way in (bio, late_bio, nested, implicit, split, unhooked, again, reset, rustls, curl)}
WAYS[sys.argv[1]](socket.create_connection((sys.argv[2], int(sys.argv[3]))))
print("ended", flush=True)
