"""The emulated link on a real gRPC stream over loopback, with a TCP relay as the judge of bytes."""

import threading
from concurrent import futures
from contextlib import contextmanager

import grpc
import pytest

from benchmarks.relay import Relay
from common.link.framing import STREAM_OPEN_BYTES, wire_bytes
from common.link.interceptors import LinkInterceptor

METHOD = "/test.Link/Stream"
FAST = 4e9  # a rate that costs a test no time, but takes the shaped path


@contextmanager
def serve(handler):
    """A real server with one bidirectional method on bytes; yields its address."""
    server = grpc.server(futures.ThreadPoolExecutor(4))
    methods = {"Stream": grpc.stream_stream_rpc_method_handler(handler)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Link", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


@contextmanager
def connect(address, interceptor):
    """A channel's bidirectional method behind the link."""
    with grpc.insecure_channel(address) as channel:
        yield grpc.intercept_channel(channel, interceptor).stream_stream(METHOD)


def numbers(requests, context):
    """Answer each request with its first eight bytes."""
    for request in requests:
        yield request[:8]


def link_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("link-")]


def assert_link_threads_end():
    """Join rather than sleep: a leaked thread fails here after a minute, a slow machine does not."""
    for thread in link_threads():
        thread.join(60)
    assert link_threads() == []


def paced(count, size, credit):
    """Numbered messages, each drawn only once the reply to the one `window` before it is in."""
    for number in range(count):
        credit.acquire()
        yield number.to_bytes(8, "big") + bytes(size - 8)


@pytest.mark.parametrize("shaped", [True, False])
@pytest.mark.parametrize("window", [1, 8])
@pytest.mark.parametrize("size", [6 * 1024, 16 * 1024, 65_536, 300_000, 2**20])
def test_counted_bytes_are_those_on_the_wire(size, window, shaped):
    """Within 1 % of what a TCP relay sees, for 2 MB and more, and so is each reply's share."""
    sent, received, credit = [], [], threading.Semaphore(window)
    interceptor = LinkInterceptor(
        FAST if shaped else None,
        FAST if shaped else None,
        0.0,
        on_sent=lambda message, on_wire, busy_s: sent.append(on_wire),
        on_received=lambda message, on_wire, busy_s: received.append(on_wire),
    )
    count = 2**21 // size + 1
    with serve(numbers) as address, Relay(address) as relay, connect(relay.address, interceptor) as call:
        replies = []
        for reply in call(paced(count, size, credit)):
            replies.append(int.from_bytes(reply, "big"))
            credit.release()
        up = relay.up.total

    assert replies == list(range(count))
    assert sent == [wire_bytes(size)] * count
    assert received == [wire_bytes(8)] * count
    assert up == pytest.approx(sum(sent) + STREAM_OPEN_BYTES, rel=0.01)


def test_order_holds_with_rate_and_latency_in_both_directions():
    interceptor = LinkInterceptor(FAST, FAST, 0.01)
    with serve(numbers) as address, connect(address, interceptor) as call:
        requests = (number.to_bytes(8, "big") for number in range(500))
        replies = [int.from_bytes(reply, "big") for reply in call(requests)]
    assert replies == list(range(500))
    assert_link_threads_end()


@pytest.mark.parametrize("link", [(None, None, 0.0), (FAST, FAST, 0.01)], ids=["plain", "shaped"])
def test_the_status_comes_after_the_replies_before_it(link):
    """An error of the server neither overtakes replies nor gets lost."""

    def handler(requests, context):
        yield from (b"1", b"2", b"3")
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no such split")

    ended = threading.Event()
    with serve(handler) as address, connect(address, LinkInterceptor(*link)) as call:
        stream = call(iter([b"hello"]))
        if not stream.add_callback(ended.set):
            ended.set()
        assert [next(stream) for _ in range(3)] == [b"1", b"2", b"3"]
        for _ in range(2):  # whoever asks again is told again
            with pytest.raises(grpc.RpcError) as caught:
                next(stream)
            assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert stream.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert stream.details() == "no such split"
        assert stream.initial_metadata() is not None
        assert ended.wait(60)
    assert_link_threads_end()


@pytest.mark.parametrize("link", [(1.0, 1.0, 0.0), (None, None, 10_000.0)], ids=["rate", "latency"])
def test_cancel_does_not_wait_for_the_link(link):
    """A transmission of minutes, or a message under way for hours, ends with the call."""
    drawn = threading.Event()

    def requests():
        drawn.set()
        yield bytes(10_000)

    with serve(numbers) as address, connect(address, LinkInterceptor(*link)) as call:
        stream = call(requests())
        assert drawn.wait(60)
        stream.cancel()
        with pytest.raises(grpc.RpcError) as caught:
            next(stream)
        assert caught.value.code() is grpc.StatusCode.CANCELLED
        assert stream.code() is grpc.StatusCode.CANCELLED
        assert_link_threads_end()


def test_the_pump_stops_when_the_server_ends_the_call():
    """The rest of the requests is neither drawn nor sent: the link is slow enough never to get there."""
    drawn = []

    def handler(requests, context):
        context.abort(grpc.StatusCode.ABORTED, "a newer stream has taken over")
        yield b""

    def requests():
        for number in range(1000):
            drawn.append(number)
            yield bytes(10_000)

    with serve(handler) as address, connect(address, LinkInterceptor(1.0, None, 0.0)) as call:
        with pytest.raises(grpc.RpcError, match="a newer stream has taken over"):
            next(call(requests()))
        assert_link_threads_end()
    assert len(drawn) <= 1


def test_an_error_in_the_requests_ends_the_call():
    def requests():
        yield b"fine"
        raise ValueError("the outbox broke")

    with serve(numbers) as address, connect(address, LinkInterceptor(FAST, FAST, 0.001)) as call:
        with pytest.raises(grpc.RpcError) as caught:
            list(call(requests()))
        assert caught.value.code() is grpc.StatusCode.UNKNOWN
    assert_link_threads_end()


def test_a_call_that_nobody_holds_any_more_ends():
    """As with a plain gRPC call: the link's reader must not keep it alive."""
    ended = threading.Event()

    def handler(requests, context):
        context.add_callback(ended.set)
        yield b"hello"
        ended.wait(60)

    with serve(handler) as address, connect(address, LinkInterceptor(FAST, FAST, 0.0)) as call:
        assert next(call(iter([b"hello"]))) == b"hello"
        assert ended.wait(60)
        assert_link_threads_end()


def test_a_server_that_is_not_there_is_reported():
    with serve(numbers) as address:
        pass
    with connect(address, LinkInterceptor(FAST, FAST, 0.001)) as call:
        with pytest.raises(grpc.RpcError) as caught:
            next(call(iter([b"hello"])))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert_link_threads_end()


def test_a_cut_relay_breaks_streams_and_a_restored_one_takes_new_ones():
    """What the outage tests stand on."""
    with serve(numbers) as address, Relay(address) as relay:
        options = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 100)]
        with grpc.insecure_channel(relay.address, options) as channel:
            call, credit = channel.stream_stream(METHOD), threading.Semaphore(1)
            stream = call(paced(10, 8, credit))
            assert next(stream) == bytes(8)
            relay.cut()
            with pytest.raises(grpc.RpcError):
                next(stream)
            credit.release()
            with pytest.raises(grpc.RpcError):
                next(call(iter([b"12345678"])))
            relay.restore()
            assert list(call(iter([b"12345678"]), wait_for_ready=True)) == [b"12345678"]


def test_a_silent_relay_holds_bytes_back_and_lets_them_go():
    """Silence is not an error: what was sent arrives later, in order."""
    with (
        serve(numbers) as address,
        Relay(address, delay_up_s=0.001) as relay,
        grpc.insecure_channel(relay.address) as channel,
    ):
        credit = threading.Semaphore(1)
        stream = channel.stream_stream(METHOD)(paced(3, 8, credit))
        assert next(stream) == bytes(8)
        relay.silence()
        credit.release()
        replies = []
        taker = threading.Thread(target=lambda: replies.append(next(stream)))
        taker.start()
        taker.join(0.3)  # long enough to fail where silence leaks; too short never fails
        assert replies == []
        relay.restore()
        taker.join(60)
        assert replies == [(1).to_bytes(8, "big")]
        stream.cancel()
