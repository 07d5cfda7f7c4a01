"""A client that uses OpenSSL in an uncommon way.

usage: ways.py WAY ADDRESS PORT TEXT; makes a call with that text. Says `answered` if it is, or `ended` when the connection is.
"""

import ctypes
import ctypes.util
import socket
import ssl
import sys

import h2.connection
import h2.events

BIO_C_SET_SSL = 109
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
    found = ctypes.CDLL(ctypes.util.find_library(name))
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


def implicit(plain):
    """The handshake happens within the first call that writes."""
    settings = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    settings.check_hostname = False
    settings.verify_mode = ssl.CERT_NONE
    encrypted = settings.wrap_socket(plain, do_handshake_on_connect=False)
    try:
        encrypted.write(CALL)
        while encrypted.read(100):
            pass
    except OSError:
        pass


CONNECTION, CALL = call(sys.argv[4].encode())
def split(plain):
    """The handshake's beginning goes in segments of a byte each."""
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    settings = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    settings.check_hostname = False
    settings.verify_mode = ssl.CERT_NONE
    settings.set_alpn_protocols(["h2"])
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
        while True:
            for event in CONNECTION.receive_data(until_done(lambda: encrypted.read(65536))):
                if isinstance(event, h2.events.StreamEnded):
                    print("answered", flush=True)
                    sys.exit()
    except OSError:
        pass


WAYS = {way.__name__: way for way in (bio, late_bio, implicit, split)}
WAYS[sys.argv[1]](socket.create_connection((sys.argv[2], int(sys.argv[3]))))
print("ended", flush=True)
