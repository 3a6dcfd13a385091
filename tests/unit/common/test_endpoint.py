"""Calls of every kind show the token, and what travels in clear is warned about once."""

import logging
from concurrent import futures

import grpc
import pytest

from common.endpoint import Endpoint
from common.tls import Tls

TOKEN = "0123456789abcdef"


@pytest.fixture
def address():
    """A server that answers every kind of call with the authorization it was shown."""

    def shown(_, context):
        return dict(context.invocation_metadata()).get("authorization", "nothing").encode()

    def shown_in_a_stream(_, context):
        yield shown(_, context)

    handlers = {
        "UnaryUnary": grpc.unary_unary_rpc_method_handler(shown),
        "UnaryStream": grpc.unary_stream_rpc_method_handler(shown_in_a_stream),
        "StreamUnary": grpc.stream_unary_rpc_method_handler(shown),
        "StreamStream": grpc.stream_stream_rpc_method_handler(shown_in_a_stream),
    }
    server = grpc.server(futures.ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0).wait()


def answers(endpoint):
    with endpoint.open() as channel:
        return [
            channel.unary_unary("/test/UnaryUnary")(b"", timeout=60),
            *channel.unary_stream("/test/UnaryStream")(b"", timeout=60),
            channel.stream_unary("/test/StreamUnary")(iter([b""]), timeout=60),
            *channel.stream_stream("/test/StreamStream")(iter([b""]), timeout=60),
        ]


def test_every_kind_of_call_shows_the_token(address):
    assert answers(Endpoint(address, token=TOKEN)) == [b"Bearer " + TOKEN.encode()] * 4
    assert answers(Endpoint(address)) == [b"nothing"] * 4


@pytest.mark.parametrize(
    ("endpoint", "warned"),
    [
        (Endpoint("gpu:1"), ["no TLS to gpu:1: labels and activations travel in clear; use --tls-ca"]),
        (Endpoint("192.0.2.7:1", token=TOKEN), ["travel in clear, and so does the token; use --tls-ca"]),
        (Endpoint("gpu:1", Tls(ca=b"")), []),
        (Endpoint("127.0.0.1:1", token=TOKEN), []),
        (Endpoint("[::1]:1"), []),
    ],
    ids=["plaintext", "plaintext with a token", "TLS", "loopback", "IPv6 loopback"],
)
def test_what_travels_in_clear_is_warned_about_beyond_loopback(endpoint, warned, caplog):
    with caplog.at_level(logging.WARNING):
        endpoint.warn_of_clear()

    assert len(caplog.messages) == len(warned)
    assert all(words in message for words, message in zip(warned, caplog.messages, strict=True))
    assert TOKEN not in caplog.text
