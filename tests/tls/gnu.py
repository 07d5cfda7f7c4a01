"""Connections over GnuTLS, by ctypes, and the ways in which its functions are called."""

import ctypes
import errno
import os
import select
import socket

POINTER = ctypes.c_void_p
PIECE = 1 << 16
AGAIN, INTERRUPTED = -28, -52
MOST_UPDATES = 4  # GnuTLS takes 8 a second
NONBLOCK, WAIT, KEY_UPDATE_ASKED = 8, 1, 1
TRANSPORT = ctypes.CFUNCTYPE(ctypes.c_ssize_t, POINTER, POINTER, ctypes.c_size_t)
READABLE = ctypes.CFUNCTYPE(ctypes.c_int, POINTER, ctypes.c_uint)


class Ended(Exception):
    pass


def go_on_in_a_child(plain):
    """Only a child of this process comes back from here."""
    if child := os.fork():
        plain.close()
        os.waitpid(child, 0)
        os._exit(0)


class Datum(ctypes.Structure):
    _fields_ = [("data", ctypes.c_char_p), ("size", ctypes.c_uint)]


class Library:
    SERVER, CLIENT, PEM, CERTIFICATE = 1, 2, 1, 1

    def __init__(self):
        self.gnutls = ctypes.CDLL("libgnutls.so.30")
        for function in ("recv", "recv_seq", "send", "send2"):
            getattr(self.gnutls, f"gnutls_record_{function}").restype = ctypes.c_ssize_t

    def context(self, _shape, folder):
        credentials = POINTER()
        self.gnutls.gnutls_certificate_allocate_credentials(ctypes.byref(credentials))
        if folder:
            files = (f"{folder}/{name}.pem".encode() for name in ("cert", "key"))
            assert self.gnutls.gnutls_certificate_set_x509_key_file(credentials, *files, self.PEM) == 0
        return credentials


class Tls:
    """A connection."""

    def __init__(self, library, credentials, plain, shape, serving):
        self.plain, self.gnutls, self.shape = plain, library.gnutls, shape
        self.session = POINTER()
        flags = (library.SERVER if serving else library.CLIENT) | NONBLOCK * ("waiting" in shape)
        self.gnutls.gnutls_init(ctypes.byref(self.session), flags)
        self.gnutls.gnutls_set_default_priority(self.session)
        self.gnutls.gnutls_credentials_set(self.session, library.CERTIFICATE, credentials)
        self.gnutls.gnutls_alpn_set_protocols(self.session, ctypes.byref(Datum(b"h2", 2)), 1, 0)
        self.fed, self.updates = "fed" in shape, 0
        if self.fed:
            self.incoming, self.outgoing = bytearray(), bytearray()
            self.functions = TRANSPORT(self.pull), TRANSPORT(self.push), READABLE(lambda *_: bool(self.incoming))
            for name, function in zip(("pull", "push", "pull_timeout"), self.functions):
                getattr(self.gnutls, f"gnutls_transport_set_{name}_function")(self.session, function)
        else:
            self.gnutls.gnutls_transport_set_int2(self.session, plain.fileno(), plain.fileno())
        if "waiting" in shape:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            plain.setblocking(False)
        self.buffer = ctypes.create_string_buffer(PIECE)
        self.until_done(lambda: self.gnutls.gnutls_handshake(self.session))

    def pull(self, _, buffer, size):
        if not self.incoming:
            self.gnutls.gnutls_transport_set_errno(self.session, errno.EAGAIN)
            return -1
        size = min(size, len(self.incoming))
        ctypes.memmove(buffer, bytes(self.incoming[:size]), size)
        del self.incoming[:size]
        return size

    def push(self, _, data, size):
        self.outgoing += ctypes.string_at(data, size)
        return size

    def until_done(self, call, again=None):
        """`again` repeats the call."""
        while True:
            result = call()
            if self.fed:
                self.plain.sendall(bytes(self.outgoing))
                self.outgoing.clear()
            if result >= 0:
                return result
            if result not in (AGAIN, INTERRUPTED):
                raise Ended
            call = again or call
            writes = self.gnutls.gnutls_record_get_direction(self.session)
            if not self.fed:
                select.select([] if writes else [self.plain], [self.plain] if writes else [], [])
            elif not self.incoming:  # else it has read a message of its own, and there are more
                received = self.plain.recv(PIECE)
                if not received:
                    raise Ended
                self.incoming += received

    def read(self):
        size = ctypes.c_size_t(1 if "tiny" in self.shape else PIECE)
        if "seq" in self.shape:
            sequence = ctypes.create_string_buffer(8)
            read = lambda: self.gnutls.gnutls_record_recv_seq(self.session, self.buffer, size, sequence)
        elif "packet" in self.shape:
            packet = POINTER()
            read = lambda: self.gnutls.gnutls_record_recv_packet(self.session, ctypes.byref(packet))
        else:
            read = lambda: self.gnutls.gnutls_record_recv(self.session, self.buffer, size)
        n = self.until_done(read)
        if n == 0:
            raise Ended
        return self.buffer.raw[:n]

    def write(self, data):
        gnutls, session, shape = self.gnutls, self.session, self.shape
        corked = "cork" in shape and data
        if corked:
            gnutls.gnutls_record_cork(session)
        while data:
            piece = data[:1] if "tiny" in shape else data
            size = ctypes.c_size_t(len(piece))
            flush = lambda: gnutls.gnutls_record_send(session, None, ctypes.c_size_t(0))
            if "send2" in shape:
                padding = ctypes.c_size_t(100 if len(piece) < 1000 else 0)
                write = lambda: gnutls.gnutls_record_send2(session, piece, size, padding, 0)
            else:
                write = lambda: gnutls.gnutls_record_send(session, piece, size)
            data = data[self.until_done(write, again=flush if "flush" in shape else None) :]
        if corked:
            self.until_done(lambda: gnutls.gnutls_record_uncork(session, WAIT * ("waiting" not in shape)))

    def pending(self):
        return self.gnutls.gnutls_record_check_pending(self.session) > 0 or (self.fed and bool(self.incoming))

    def refresh(self):
        """New keys or another process, in the middle of it all."""
        if "fork" in self.shape:
            go_on_in_a_child(self.plain)
        elif "update" in self.shape and self.updates < MOST_UPDATES:
            self.updates += 1
            self.until_done(lambda: self.gnutls.gnutls_session_key_update(self.session, KEY_UPDATE_ASKED))
