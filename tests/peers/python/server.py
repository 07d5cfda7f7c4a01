"""The grpcio server: what src/server is with tonic. Says what its handlers see, a line of JSON per event."""

import argparse
import itertools
import json
import pathlib
import signal
import socket
import threading
import time
from concurrent import futures

import grpc

import common
import interop

ids = itertools.count()
counts = {}
counts_lock = threading.Lock()


def count(method, what):
    with counts_lock:
        counts.setdefault(method, {"calls": 0, "messages": 0, "ended": 0})[what] += 1


class Call:
    """One call in its handler."""

    def __init__(self, method, context):
        self.id, self.method, self.context = next(ids), method, context
        self.messages = self.received_bytes = self.index = 0
        self.ended = False
        count(method, "calls")
        self.say(event="start", peer=peer(context.peer()), metadata=common.pairs(context.invocation_metadata()))

    def say(self, event, **more):
        common.say(json.dumps({"event": event, "call": self.id, "method": self.method, **more}))

    def take(self, message):
        count(self.method, "messages")
        digest = common.digest(message.SerializeToString(deterministic=True))
        fields = common.to_json(message)
        self.say(event="message", index=self.messages, size=message.ByteSize(), digest=digest, fields=fields)
        self.messages += 1
        payload = getattr(message, "payload", b"")
        self.received_bytes += len(payload if isinstance(payload, bytes) else payload.body)

    def end(self, code=0, error=None):
        if not self.ended:
            self.ended = True
            count(self.method, "ended")
            self.say(event="end", messages=self.messages, code=code, error=error)

    def fail(self, code, message):
        self.end(code, message)
        self.context.abort(next(known for known in grpc.StatusCode if known.value[0] == code), message)

    def reply(self, kind, to):
        if to.delay_ms:
            time.sleep(to.delay_ms / 1000)
        if to.fail_code:
            self.fail(to.fail_code, to.fail_message)
        reply = kind(
            text=to.text,
            payload=bytes(to.reply_bytes),
            index=self.index,
            received=self.messages,
            received_bytes=self.received_bytes,
        )
        if to.reflect:
            reply.request.CopyFrom(to)
        self.index += 1
        return reply


def peer(text):
    """grpcio's `ipv4:127.0.0.1:1` and `ipv6:%5B::1%5D:1` as an address and port."""
    return text.split(":", 1)[-1].replace("%5B", "[").replace("%5D", "]")


def handlers(descriptors):
    """Generic handlers for every method, by service."""
    services = {}
    for path, method in descriptors.methods.items():
        service, name = path[1:].split("/")
        if name == "UnimplementedCall":
            continue
        services.setdefault(service, {})[name] = handler(path, method)
    return [grpc.method_handlers_generic_handler(service, methods) for service, methods in services.items()]


def handler(path, method):
    request, reply = common.message_class(method.input_type), common.message_class(method.output_type)
    testing = path.startswith(interop.SERVICE)

    def begin(context):
        if testing:
            interop.begin(context)
        return Call(path, context)

    def unary(message, context):
        call = begin(context)
        call.take(message)
        if path == "/search.SearchService/Search":
            answer = reply(results=[f"first page about {message.query}"], total=1)
        elif path == "/login.LoginService/Login":
            answer = reply(ok=True, token=f"token of {message.user}")
        elif testing:
            answer = interop.unary(call, reply, message)
        else:
            if method.name == "Slow" and not message.delay_ms:
                message.delay_ms = 1000
            answer = call.reply(reply, message)
        call.end()
        return answer

    def incoming(call, messages):
        try:
            for message in messages:
                call.take(message)
                yield message
        except grpc.RpcError as error:
            call.end(grpc.StatusCode.CANCELLED.value[0], str(error))
            raise

    def client_stream(messages, context):
        call = begin(context)
        last = request()
        for last in incoming(call, messages):
            pass
        answer = interop.unary(call, reply, last) if testing else call.reply(reply, last)
        call.end()
        return answer

    def stream(call, message):
        if testing:
            yield from interop.stream(call, reply, message)
            return
        for _ in range(max(message.replies, 1)):
            yield call.reply(reply, message)

    def server_stream(message, context):
        call = begin(context)
        # The caller's going away ends the generator where it stands.
        context.add_callback(lambda: call.end(1, "the caller went away"))
        call.take(message)
        yield from stream(call, message)
        call.end()

    def bidi(messages, context):
        call = begin(context)
        context.add_callback(lambda: call.end(1, "the caller went away"))
        for message in incoming(call, messages):
            yield from stream(call, message)
        call.end()

    coding = {"request_deserializer": request.FromString, "response_serializer": reply.SerializeToString}
    if method.client_streaming and method.server_streaming:
        return grpc.stream_stream_rpc_method_handler(bidi, **coding)
    if method.client_streaming:
        return grpc.stream_unary_rpc_method_handler(client_stream, **coding)
    if method.server_streaming:
        return grpc.unary_stream_rpc_method_handler(server_stream, **coding)
    return grpc.unary_unary_rpc_method_handler(unary, **coding)


def control(place):
    """Answers questions, a line each: counts, reset, mark ID. See src/server/control.rs."""
    if place.startswith("unix:"):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(place[len("unix:") :])
        listener.listen()
    else:
        host, _, port = place.rpartition(":")
        family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
        listener = socket.create_server((host.strip("[]"), int(port)), family=family)

    def answer(stream):
        with stream, stream.makefile("rw") as file:
            for line in file:
                question, _, rest = line.strip().partition(" ")
                reply = {}
                with counts_lock:
                    if question == "counts":
                        reply = dict(sorted(counts.items()))
                    elif question == "reset":
                        counts.clear()
                if question == "mark":
                    common.say(json.dumps({"event": "mark", "id": rest}))
                file.write(json.dumps(reply) + "\n")
                file.flush()

    def accept():
        while True:
            stream, _ = listener.accept()
            threading.Thread(target=answer, args=(stream,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def listen(server, address, folder):
    if not folder:
        return server.add_insecure_port(address)
    files = [(pathlib.Path(folder) / name).read_bytes() for name in ("key.pem", "cert.pem")]
    return server.add_secure_port(address, grpc.ssl_server_credentials([files]))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listen", action="append", required=True)
    parser.add_argument("--control")
    parser.add_argument("--count-file")
    parser.add_argument("--tls", help="serve over TLS, with key.pem and cert.pem of this folder")
    parser.add_argument("--max-streams", type=int)
    parser.add_argument("--header-table-size", type=int)
    parser.add_argument("--descriptors")
    args = parser.parse_args()

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    options = common.UNLIMITED + [("grpc.so_reuseport", 0)]
    if args.max_streams:
        options.append(("grpc.max_concurrent_streams", args.max_streams))
    if args.header_table_size is not None:
        options.append(("grpc.http2.hpack_table_size.decoder", args.header_table_size))
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=160), options=options)
    server.add_generic_rpc_handlers(handlers(common.Descriptors(args.descriptors)))
    if args.control:
        control(args.control)
    ready = []
    for address in args.listen:
        host, _, _ = address.rpartition(":")
        ready.append(f"{host}:{listen(server, address, args.tls)}")
    server.start()
    for address in ready:
        common.say(f"listening {address}")
    while not stop.wait(3600):
        pass
    server.stop(grace=2).wait()
    if args.count_file:
        with open(args.count_file, "w", encoding="utf-8") as file:
            json.dump(counts, file)


if __name__ == "__main__":
    main()
