"""gRPC's interoperability service, for server.py: what it answers."""

import time

SERVICE = "/grpc.testing.TestService/"
INITIAL, TRAILING = "x-grpc-test-echo-initial", "x-grpc-test-echo-trailing-bin"


def begin(context):
    """Gives back the metadata that the caller asks for."""
    given = context.invocation_metadata()
    initial = [(key, value) for key, value in given if key == INITIAL]
    if initial:
        context.send_initial_metadata(initial)
    context.set_trailing_metadata([(key, value) for key, value in given if key == TRAILING])


def _refuse(call, message):
    if message.HasField("response_status"):
        call.fail(message.response_status.code, message.response_status.message)


def _payload(kind, size):
    reply = kind()
    reply.payload.body = bytes(size)
    return reply


def unary(call, kind, message):
    """The answer of a call with one reply."""
    if call.method.endswith("/EmptyCall"):
        return kind()
    if call.method.endswith("/StreamingInputCall"):
        return kind(aggregated_payload_size=call.received_bytes)
    _refuse(call, message)
    return _payload(kind, message.response_size)


def stream(call, kind, message):
    """The answers to one message."""
    _refuse(call, message)
    for wanted in message.response_parameters:
        time.sleep(wanted.interval_us / 1e6)
        yield _payload(kind, wanted.size)
