"""The smallest grpcio search server that can be measured; with --check it denies queries with an A itself."""

import argparse
import os
from concurrent import futures

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listen", required=True)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()

    pool = descriptor_pool.DescriptorPool()
    with open(os.environ["PROTOCG_DESCRIPTORS"], "rb") as file:
        for proto in descriptor_pb2.FileDescriptorSet.FromString(file.read()).file:
            pool.Add(proto)
    request, reply = (
        message_factory.GetMessageClass(pool.FindMessageTypeByName(name)) for name in ("search.SearchRequest", "search.SearchReply")
    )

    def search(message, context):
        if args.check and "A" in message.query:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "queries must not contain A")
        return reply(results=[f"first page about {message.query}"], total=1)

    handler = grpc.unary_unary_rpc_method_handler(search, request.FromString, reply.SerializeToString)
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4), options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("search.SearchService", {"Search": handler})])
    port = server.add_insecure_port(args.listen)
    server.start()
    print(f"listening {args.listen.rpartition(':')[0]}:{port}", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
