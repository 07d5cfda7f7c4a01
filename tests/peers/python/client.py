"""The grpcio client: what src/client is with tonic. Reads lists of calls on stdin, prints a line of JSON per call."""

import argparse
import base64
import json
import queue
import ssl
import sys
import threading
import time

import grpc

import common

RESPONSES_SHOWN = 16
UNAVAILABLE, DEADLINE_EXCEEDED = 14, 4
FIELDS = {"method", "kind", "messages", "metadata", "deadline_ms", "group", "interval_ms", "gzip", "lockstep", "hold", "cancel_after", "id"}
BEGINNING = 0.05  # seconds that a call lasts at least that is cancelled before its first reply


def trusting(target):
    """Trusts whatever certificate the server has: grpcio verifies in any case."""
    host, _, port = target.rpartition(":")
    certificate = ssl.get_server_certificate((host.strip("[]"), int(port)))
    return grpc.ssl_channel_credentials(certificate.encode())


class Link:
    """One channel, and how often it has connected."""

    def __init__(self, target, tls):
        # A pool of its own: no other channel's connection is shared.
        options = common.UNLIMITED + [("grpc.use_local_subchannel_pool", 1)]
        options += [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.min_reconnect_backoff_ms", 5000)]
        if tls:
            options += [("grpc.ssl_target_name_override", "localhost")]
            self.channel = grpc.secure_channel(target, trusting(target), options=options)
        else:
            self.channel = grpc.insecure_channel(target, options=options)
        self.connections = 0
        self.channel.subscribe(self._changed)

    def _changed(self, state):
        self.connections += state is grpc.ChannelConnectivity.READY


class Call:
    """A call to make, checked and encoded."""

    def __init__(self, index, script, descriptors):
        unknown = set(script) - FIELDS
        if unknown:
            raise ValueError(f"not a call: unknown {unknown}")
        self.index, self.script = index, script
        self.group = script.get("group")
        method = descriptors.method(script["method"])
        self.output = method.output_type if method else None
        default = {(False, False): "unary", (True, False): "client", (False, True): "server", (True, True): "bidi"}
        streaming = (method.client_streaming, method.server_streaming) if method else (False, False)
        self.kind = script.get("kind") or default[streaming]
        self.messages = [common.encode(m, method.input_type if method else None) for m in script.get("messages", [])]
        if self.kind in ("unary", "server") and len(self.messages) != 1:
            raise ValueError(f"a call of kind {self.kind} has one message, not {len(self.messages)}")
        self.metadata = [
            (key, base64.b64decode(value + "=" * (-len(value) % 4)) if key.endswith("-bin") else value)
            for key, value in script.get("metadata", [])
        ]

    def outgoing(self, replies, over):
        for index, message in enumerate(self.messages):
            if index and self.script.get("interval_ms"):
                time.sleep(self.script["interval_ms"] / 1000)
            if index and self.script.get("lockstep"):
                replies.acquire()
            yield message
        if self.script.get("hold"):
            over.wait()

    def make(self, link):
        """Makes it: the line that reports it."""
        result = {
            "type": "result", "index": self.index, "id": self.script.get("id"), "method": self.script["method"],
            "code": 0, "status": "OK", "message": "", "cause": "", "responses": 0, "response_bytes": 0, "fields": [],
            "digests": [],
        }  # fmt: skip
        deadline = self.script.get("deadline_ms")
        options = {"timeout": deadline / 1000 if deadline else None, "metadata": self.metadata}
        if self.script.get("gzip"):
            options["compression"] = grpc.Compression.Gzip
        method, channel = self.script["method"], link.channel
        start = time.monotonic()
        call, replied, over = None, threading.Semaphore(0), threading.Event()
        cancel_after = self.script.get("cancel_after")
        outgoing = self.outgoing(replied, over)
        try:
            if self.kind == "unary":
                call = channel.unary_unary(method).future(self.messages[0], **options)
                replies = [call.result()]
            elif self.kind == "client":
                call = channel.stream_unary(method).future(outgoing, **options)
                if cancel_after == 0:
                    threading.Timer(BEGINNING, call.cancel).start()
                replies = [call.result()]
            elif self.kind == "server":
                replies = call = channel.unary_stream(method)(self.messages[0], **options)
            else:
                replies = call = channel.stream_stream(method)(outgoing, **options)
            for reply in replies:
                result["responses"] += 1
                result["response_bytes"] += len(reply)
                if len(result["fields"]) < RESPONSES_SHOWN:
                    result["fields"].append(common.decode(reply, self.output))
                    result["digests"].append(common.digest(reply))
                replied.release()
                if cancel_after == result["responses"]:
                    call.cancel()
        except grpc.FutureCancelledError:
            result["code"], result["status"], result["message"] = call.code().value[0], call.code().name, call.details()
        except grpc.RpcError as error:
            call = error
            result["code"], result["status"] = error.code().value[0], error.code().name
            result["message"] = error.details() or ""
            if cancel_after is None:  # for a call that was cancelled here it would never return
                result["cause"] = error.debug_error_string()
        finally:
            over.set()
            replied.release()
        result["latency_ms"] = (time.monotonic() - start) * 1000
        result["headers"] = common.pairs(call.initial_metadata())
        result["trailers"] = common.pairs(call.trailing_metadata())
        return result


def at_once(jobs):
    """Runs the jobs in a thread each."""
    threads = [threading.Thread(target=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def batch(link, calls):
    """Runs neighbours of one group together, everything else one after the other."""
    while calls:
        size = 1
        while size < len(calls) and calls[0].group is not None and calls[size].group == calls[0].group:
            size += 1
        now, calls = calls[:size], calls[size:]
        at_once([lambda call=call: common.say(json.dumps(call.make(link))) for call in now])


def denials(link, args, scripts, descriptors):
    """Makes the denied calls, with the allowed ones spread among them, and sums up."""
    total, results, todo = args.denials + args.allowed, [], queue.SimpleQueue()
    for index in range(total):
        ask = (index + 1) * args.allowed // total > index * args.allowed // total
        todo.put((ask, Call(index, scripts[1 if ask else 0], descriptors)))

    def work():
        while True:
            try:
                ask, call = todo.get_nowait()
            except queue.Empty:
                return
            results.append((ask, call.make(link)))

    start = time.monotonic()
    at_once([work] * args.concurrency)
    elapsed = (time.monotonic() - start) * 1000
    out = dict.fromkeys(("exact", "code_only", "unavailable", "resets", "hung", "allowed_ok", "allowed_failed"), 0)
    others, latencies = {}, []
    for allowed, result in results:
        right = result["code"] == (0 if allowed else args.code)
        out["unavailable"] += result["code"] == UNAVAILABLE
        out["hung"] += result["code"] == DEADLINE_EXCEEDED
        if not right:
            text = (result["message"] + " " + result["cause"]).lower()
            out["resets"] += any(word in text for word in ("reset", "broken pipe", "rst_stream"))
            other = f"{result['code']}: {result['message']}"
            others[other] = others.get(other, 0) + 1
        if allowed:
            out["allowed_ok" if right else "allowed_failed"] += 1
        else:
            latencies.append(result["latency_ms"])
            if right:
                out["exact" if result["message"] == args.message else "code_only"] += 1
    latencies.sort()
    at = {p: latencies[min(len(latencies) * p // 100, len(latencies) - 1)] for p in (50, 99, 100) if latencies}
    return {
        "type": "denials", "denials": len(latencies), **out, "others": others,
        "connections": link.connections, "reconnects": max(link.connections - 1, 0),
        "elapsed_ms": elapsed, "p50_ms": at.get(50), "p99_ms": at.get(99), "max_ms": at.get(100),
    }  # fmt: skip


def scripts():
    """The JSON lists on stdin, each as soon as it is complete."""
    text = ""
    for line in sys.stdin:
        text += line
        try:
            calls = json.loads(text)
        except ValueError:
            continue
        text = ""
        yield calls
    if text.strip():
        sys.exit("stdin ends inside of a list")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", required=True)
    parser.add_argument("--denials", type=int)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--allowed", type=int, default=0)
    parser.add_argument("--code", type=int, default=7)
    parser.add_argument("--message", default="")
    parser.add_argument("--descriptors")
    parser.add_argument("--tls", action="store_true", help="call over TLS, whatever the certificate")
    args = parser.parse_args()

    descriptors, link = common.Descriptors(args.descriptors), Link(args.target, args.tls)
    for calls in scripts():
        if args.denials:
            common.say(json.dumps(denials(link, args, calls, descriptors)))
            return
        before = link.connections
        batch(link, [Call(index, script, descriptors) for index, script in enumerate(calls)])
        done = {"type": "done", "connections": link.connections, "new_connections": link.connections - before}
        common.say(json.dumps(done))


if __name__ == "__main__":
    main()
