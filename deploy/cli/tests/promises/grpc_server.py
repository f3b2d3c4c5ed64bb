"""A gRPC server of raw bytes: unary, streaming both ways, and failures with trailers."""

import sys
from concurrent import futures

import grpc


def echo(request, context):
    context.set_trailing_metadata((("x-trailer", "unary"),))
    return request


def fail(request, context):
    context.set_trailing_metadata((("x-trailer", "failure"),))
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not today: 100 %")


def count(request, context):
    for number in range(int(request)):
        yield str(number).encode()
    context.set_trailing_metadata((("x-trailer", "stream"),))


def chat(requests, context):
    for request in requests:
        yield request
    context.set_trailing_metadata((("x-trailer", "chat"),))


METHODS = {
    "Echo": grpc.unary_unary_rpc_method_handler(echo),
    "Fail": grpc.unary_unary_rpc_method_handler(fail),
    "Forbidden": grpc.unary_unary_rpc_method_handler(echo),
    "Count": grpc.unary_stream_rpc_method_handler(count),
    "Chat": grpc.stream_stream_rpc_method_handler(chat),
}

server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("weir.test.Peer", METHODS),))
server.add_insecure_port(f"[::]:{sys.argv[1]}")
server.start()
server.wait_for_termination()
