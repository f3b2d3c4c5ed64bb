"""Calls a method of grpc_server.py and prints what comes of it: messages, status, details, trailer."""

import queue
import sys

import grpc

target, method = sys.argv[1:]
PATH = f"/weir.test.Peer/{method}"
TIMEOUT = 20
channel = grpc.insecure_channel(target, options=[("grpc.enable_retries", 0)])


def unary():
    message, call = channel.unary_unary(PATH).with_call(b"hello", timeout=TIMEOUT)
    return [message], call


def count():
    call = channel.unary_stream(PATH)(b"1000", timeout=TIMEOUT)
    numbers = [int(message) for message in call]
    assert numbers == list(range(1000)), numbers
    return [b"1000"], call


def chat():
    """Sends each message only after the one before has come back."""
    messages = queue.Queue()
    call = channel.stream_stream(PATH)(iter(messages.get, None), timeout=TIMEOUT)
    for number in range(20):
        text = f"message {number}".encode()
        messages.put(text)
        assert next(call) == text
    messages.put(None)
    assert list(call) == []
    return [b"20"], call


try:
    received, call = {"Count": count, "Chat": chat}.get(method, unary)()
except grpc.RpcError as error:
    received, call = [], error
trailers = dict(call.trailing_metadata() or ())
print(
    b"".join(received).decode(),
    call.code().name,
    call.details() or "-",
    trailers.get("x-trailer", "-"),
    trailers.get("x-weir-reason", "-"),
    sep="|",
)
