"""Both ends of a stream of recorded batches, each of them a process: for rates that no cloud here can train.

python -m benchmarks.stream sink --listen HOST:PORT [--reply-bytes N]
python -m benchmarks.stream send --to HOST:PORT --rate RATE [--shape] [--seconds S]
python -m benchmarks.stream receive --from HOST:PORT --rate RATE [--seconds S]

The sink speaks the protocol of a cloud, but applies a record by counting it. The sender sends the same
messages whether it shapes them or not. The receiver takes endless replies through a shaped downlink.
"""

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent import futures
from contextlib import contextmanager

import click
import grpc
import torch

from benchmarks.processes import LISTENING, worker_env
from common.codec import encode
from common.link.interceptors import LinkInterceptor
from common.units import RATE
from common.wire import convert
from common.wire.generated import training_pb2 as pb
from common.wire.generated import training_pb2_grpc as pb_grpc
from common.wire.messages import MAX_CHUNK_BYTES, Ack, Batch, Chunk, Hello, Position, Run, Welcome
from common.wire.reassembly import Reassembly, chunks_of
from common.wire.records import record_to_bytes

IMAGES, SHAPE = 64, (64, 32, 32)
CHUNK_S = 0.05
# What one of the receiver's replies takes on the link, where its size follows the rate.
REPLY_S = 0.02
# Chunks that the sender has under way: two seconds of the link.
WINDOW_CHUNKS = 40
MAX_RECORD_BYTES = 64 << 20


def recorded_batch(seq: int = 0) -> Batch:
    """Return a batch as a front would send it: activations after a ReLU, at 8 bits, some 3 MB."""
    drawn = torch.randn(IMAGES, *SHAPE, generator=torch.Generator().manual_seed(0))
    return Batch(seq, encode(torch.relu(drawn), 8), (0,) * IMAGES)


def some_hello() -> Hello:
    """Return a Hello that any parser takes; the sink reads nothing of it."""
    run = Run(
        strategy="hierarchical",
        model="recorded",
        stem="imagenet",
        classifier="small",
        split="recorded",
        input_shape=(3, 32, 32),
        num_classes=10,
        activation_shape=SHAPE,
        structure_digest="00",
        weights_digest="00",
        bits=8,
        batch_size=IMAGES,
        total_batches=1 << 20,
        seed=0,
        precision="float32",
        lr=0.05,
        momentum=0.9,
        weight_decay=0.0,
        warmup=0,
        batches_per_epoch=1 << 20,
    )
    return Hello(session_id="00000000-0000-0000-0000-000000000000", generation=1, run=run, losses_from=0)


def reply_of(nbytes: int) -> Ack:
    """Return an Ack that takes about `nbytes`: as many losses as that needs."""
    return Ack(received_bytes=0, applied=Position(0), durable=Position(0), losses=(0.5,) * (nbytes // 4))


class Sink(pb_grpc.TrainingServicer):
    """Acknowledges whatever comes, at once; or replies without end, as fast as it is read.

    Args:
        reply_bytes: size of the endless replies; None to acknowledge.
    """

    def __init__(self, reply_bytes: int | None) -> None:
        self._flood = None if reply_bytes is None else convert.reply_to_proto(reply_of(reply_bytes))

    def Train(
        self, request_iterator: Iterator[pb.TrainRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.TrainReply]:
        """Serve one stream."""
        next(request_iterator)  # Hello
        start = Position(0)
        yield convert.reply_to_proto(
            Welcome(applied=start, durable=start, max_record_bytes=MAX_RECORD_BYTES, results=())
        )
        while self._flood is not None and context.is_active():
            yield self._flood
        reassembly, received, records = Reassembly(MAX_RECORD_BYTES), 0, 0
        for proto in request_iterator:
            request = convert.request_from_proto(proto)
            if isinstance(request, Chunk):
                received += len(request.data)
                records += reassembly.add(request) is not None
                at = Position(records)
                yield convert.reply_to_proto(Ack(received_bytes=received, applied=at, durable=at))


@contextmanager
def sink_at(
    listen: str = "127.0.0.1:0", reply_bytes: int | None = None, within: Sequence[str] = ()
) -> Iterator[str]:
    """Run a sink for the length of a block; yields its address.

    Args:
        listen: HOST:PORT; port 0 picks one.
        reply_bytes: as for `Sink`.
        within: a command that runs another one, such as `ip netns exec NAME`.
    """
    size = [] if reply_bytes is None else ["--reply-bytes", str(reply_bytes)]
    command = [*within, sys.executable, "-m", "benchmarks.stream", "sink", "--listen", listen, *size]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, env=worker_env(), **pipes) as process:  # type: ignore[call-overload]
        try:
            line = process.stdout.readline()
            if not line.startswith(LISTENING):
                raise RuntimeError(f"the sink did not start, exit code {process.wait(60)}")
            yield line.removeprefix(LISTENING).strip()
        finally:
            process.stdin.close()  # this ends it
            try:
                process.wait(20)
            except BaseException:
                process.kill()
                raise


@click.group()
def main() -> None:
    """Both ends of a stream of recorded batches."""


@main.command()
@click.option("--listen", default="127.0.0.1:0")
@click.option("--reply-bytes", type=int)
def sink(listen: str, reply_bytes: int | None) -> None:
    """Serve until stdin ends."""
    serve(Sink(reply_bytes), listen)


def serve(servicer: pb_grpc.TrainingServicer, listen: str) -> None:
    """Say where it listens, and serve until stdin ends."""
    server = grpc.server(futures.ThreadPoolExecutor(4))
    pb_grpc.add_TrainingServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port(listen)
    server.start()
    click.echo(f"{LISTENING}{listen.rpartition(':')[0]}:{port}")
    with contextlib.suppress(KeyboardInterrupt):
        sys.stdin.read()
    server.stop(None).wait()


@main.command()
@click.option("--to", required=True, help="HOST:PORT of a sink.")
@click.option("--rate", type=RATE, required=True, help="Sizes the chunks and the transfer.")
@click.option("--shape", is_flag=True, help="Emulate the rate, too.")
@click.option("--seconds", default=10.0, help="What the transfer should take at the rate.")
def send(to: str, rate: float, shape: bool, seconds: float) -> None:
    """Send the same messages whatever --shape says; print how long it took, until the last reply."""
    record = record_to_bytes(recorded_batch())
    chunks = chunks_of(record, min(MAX_CHUNK_BYTES, int(rate / 8 * CHUNK_S)))
    messages = [convert.request_to_proto(chunk) for chunk in chunks]
    messages = [messages[number % len(messages)] for number in range(int(seconds / CHUNK_S))]
    credit = threading.Semaphore(WINDOW_CHUNKS)
    begun = threading.Event()

    def requests() -> Iterator[pb.TrainRequest]:
        yield convert.request_to_proto(some_hello())
        begun.wait()
        for message in messages:
            credit.acquire()
            yield message

    wire_bytes = 0

    def on_sent(_: object, nbytes: int, __: float) -> None:
        nonlocal wire_bytes
        wire_bytes += nbytes

    link = LinkInterceptor(rate if shape else None, None, 0.0, on_sent=on_sent)
    with grpc.insecure_channel(to) as channel:
        stub = pb_grpc.TrainingStub(grpc.intercept_channel(channel, link))  # type: ignore[no-untyped-call]
        replies = stub.Train(requests())
        next(replies)  # Welcome
        started = time.monotonic()
        begun.set()
        count = 0
        for _ in replies:
            credit.release()
            count += 1
        took_s = time.monotonic() - started
    click.echo(json.dumps({"seconds": took_s, "wire_bytes": wire_bytes, "replies": count}))


@main.command()
@click.option("--from", "source", required=True, help="HOST:PORT of a sink with --reply-bytes.")
@click.option("--rate", type=RATE, required=True, help="What the downlink carries.")
@click.option("--seconds", default=10.0, help="When to stop.")
def receive(source: str, rate: float, seconds: float) -> None:
    """Take replies as fast as the shaped downlink hands them over; print how many came."""
    done = threading.Event()

    def requests() -> Iterator[pb.TrainRequest]:
        yield convert.request_to_proto(some_hello())
        done.wait()

    # A window of one chunk and no more: else gRPC fetches megabytes ahead of its reader, and who looks at the
    # connection sees how fast loopback is.
    window = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", int(rate / 8 * REPLY_S))]
    count = 0
    with grpc.insecure_channel(source, window) as channel:
        intercepted = grpc.intercept_channel(channel, LinkInterceptor(None, rate, 0.0))
        replies = pb_grpc.TrainingStub(intercepted).Train(requests())  # type: ignore[no-untyped-call]
        started = time.monotonic()
        try:
            for _ in replies:
                count += 1
                if time.monotonic() - started > seconds:
                    break
        finally:
            done.set()
            replies.cancel()
    click.echo(json.dumps({"seconds": time.monotonic() - started, "replies": count}))


if __name__ == "__main__":
    main()
