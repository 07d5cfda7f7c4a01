"""What server.py and client.py share: the descriptors, and messages to and from JSON as in src/json.rs."""

import array
import base64
import os
import sys
import threading
import zlib

from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

SHOWN = 100
OWN_METADATA = {"te", "user-agent", "content-type", "grpc-accept-encoding", "accept-encoding", "grpc-timeout"}
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]

_output = threading.Lock()


def say(line):
    """Prints one line, whole and at once."""
    with _output:
        try:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
        except BrokenPipeError:
            pass


class Descriptors:
    """The .proto files' types, from an encoded FileDescriptorSet (see pg-client --write-descriptors)."""

    def __init__(self, path=None):
        path = path or os.environ.get("PROTOCG_DESCRIPTORS")
        if not path:
            sys.exit("--descriptors or PROTOCG_DESCRIPTORS must name a FileDescriptorSet")
        with open(path, "rb") as file:
            files = descriptor_pb2.FileDescriptorSet.FromString(file.read())
        pool = descriptor_pool.DescriptorPool()
        self.methods = {}
        for file in files.file:
            pool.Add(file)
        for file in files.file:
            for service in pool.FindFileByName(file.name).services_by_name.values():
                for method in service.methods:
                    self.methods[f"/{service.full_name}/{method.name}"] = method

    def method(self, path):
        """The method's descriptor, or None."""
        return self.methods.get(path)


def message_class(descriptor):
    """The class of a message type."""
    return message_factory.GetMessageClass(descriptor)


def encode(message, descriptor):
    """The bytes of a message given in JSON; without a descriptor: `@hex` only."""
    if "@hex" in message:
        return bytes.fromhex(message["@hex"])
    if descriptor is None:
        raise ValueError("a method that the descriptors don't know takes @hex messages only")
    return json_format.ParseDict(_fill(message), message_class(descriptor)()).SerializeToString(deterministic=True)


def decode(data, descriptor):
    """The JSON of a message's bytes, long values shortened; the bytes in hex if they don't parse."""
    try:
        parsed = message_class(descriptor).FromString(data)
    except Exception:  # of several kinds, by implementation
        return {"@hex": shorten(data.hex())}
    return to_json(parsed)


def to_json(message):
    """The JSON of a message, long values shortened."""
    return shorten(json_format.MessageToDict(message, preserving_proto_field_name=True))


def pattern(size):
    """So many bytes: the numbers 0, 1, 2 and so on, of four bytes each, the highest first."""
    numbers = array.array("I", range((size + 3) // 4))
    if sys.byteorder == "little":
        numbers.byteswap()
    return numbers.tobytes()[:size]


def digest(data):
    """A number that stands for all of these bytes: CRC-32, in hex."""
    return f"{zlib.crc32(data):08x}"


def _fill(value):
    if isinstance(value, dict):
        if "@text" in value:
            return "x" * value["@text"]
        if "@bytes" in value:
            return base64.b64encode(pattern(value["@bytes"])).decode()
        return {key: _fill(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_fill(item) for item in value]
    return value


def shorten(value):
    """Long strings cut to their beginning and their length."""
    if isinstance(value, dict):
        return {key: shorten(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shorten(item) for item in value]
    if isinstance(value, str) and len(value) > SHOWN:
        return f"{value[:16]}...({len(value)})"
    return value


def pairs(metadata):
    """Metadata as a list of pairs, in order, repeated keys kept; binary values in base64."""
    shown = []
    for key, value in metadata or ():
        if key not in OWN_METADATA:
            shown.append([key, base64.b64encode(value).decode().rstrip("=") if isinstance(value, bytes) else value])
    return shown
