"""An edge without a front, and a cloud without a back: with these one side of a pair is measured alone.

python -m benchmarks.replay sink --listen HOST:PORT [--record FILE]
python -m benchmarks.replay play FILE --to HOST:PORT [--edges N] [--batches N]

The sink speaks the protocol of a cloud, but takes each record as applied at once, and keeps them all in FILE
if asked to. The player sends them again as fast as they are taken, as one edge or as many.
"""

import contextlib
import json
import os
import struct
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import click
import grpc

from benchmarks.stream import MAX_RECORD_BYTES, serve
from common.wire import convert
from common.wire.generated import training_pb2 as pb
from common.wire.generated import training_pb2_grpc as pb_grpc
from common.wire.messages import (
    MAX_CHUNK_BYTES,
    Ack,
    Batch,
    Chunk,
    EvaluationPart,
    EvaluationResult,
    Hello,
    Position,
    Record,
    Welcome,
)
from common.wire.reassembly import Reassembly, chunks_of
from common.wire.records import record_from_bytes, record_to_bytes

# Unconfirmed bytes of one player: some records, so that the cloud never waits for the next.
WINDOW = 4 << 20
_SIZE = struct.Struct("<I")


def write_piece(file: BinaryIO, data: bytes) -> None:
    """Append one message or record."""
    file.write(_SIZE.pack(len(data)) + data)


def read_pieces(path: Path) -> Iterator[bytes]:
    """Yield what was written, in order."""
    with path.open("rb") as file:
        while head := file.read(_SIZE.size):
            yield file.read(_SIZE.unpack(head)[0])


class Sink(pb_grpc.TrainingServicer):
    """Takes records as applied and durable at once; its losses and results are zeros."""

    def __init__(self, record: Path | None) -> None:
        self._file = record.open("wb") if record is not None else None

    def Train(
        self, request_iterator: Iterator[pb.TrainRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.TrainReply]:
        """Serve one stream."""
        first = next(request_iterator)
        hello = convert.request_from_proto(first)
        assert isinstance(hello, Hello)
        self._keep(first.SerializeToString())
        at = Position(0)
        welcome = Welcome(applied=at, durable=at, max_record_bytes=MAX_RECORD_BYTES, results=())
        yield convert.reply_to_proto(welcome)
        reassembly, received = Reassembly(MAX_RECORD_BYTES), 0
        for proto in request_iterator:
            request = convert.request_from_proto(proto)
            if isinstance(request, Chunk):
                received += len(request.data)
                data = reassembly.add(request)
                ack = Ack(received_bytes=received, applied=at, durable=at)
                if data is not None:
                    self._keep(data)
                    ack = applied(record_from_bytes(data, hello.run), received)
                    at = ack.applied
                yield convert.reply_to_proto(ack)

    def _keep(self, data: bytes) -> None:
        if self._file is not None:
            write_piece(self._file, data)
            self._file.flush()


def applied(record: Record, received: int) -> Ack:
    """Return what a cloud says once a record is applied."""
    at = record.after
    losses = (0.0,) if isinstance(record, Batch) else ()
    results: tuple[EvaluationResult, ...] = ()
    if isinstance(record, EvaluationPart) and record.part + 1 == record.num_parts:
        results = (EvaluationResult(batches=record.batches, correct=0, total=1, loss=0.0),)
    return Ack(
        received_bytes=received,
        applied=at,
        durable=at,
        first_loss=record.seq if isinstance(record, Batch) else 0,
        losses=losses,
        results=results,
    )


class Player:
    """One edge: a session of its own, the recorded batches, and how far the cloud is with them.

    Args:
        address: of the cloud.
        path: what a sink has recorded.
        warm: batches that are sent at once.
        batches: and those that are sent from `begin` on.
    """

    def __init__(self, address: str, path: Path, warm: int, batches: int) -> None:
        pieces = read_pieces(path)
        hello = convert.request_from_proto(pb.TrainRequest.FromString(next(pieces)))
        assert isinstance(hello, Hello)
        self._hello = replace(hello, session_id=str(uuid.uuid4()))
        records = (record_from_bytes(data, hello.run) for data in pieces)
        trained = islice((record for record in records if isinstance(record, Batch)), warm + batches)
        self._chunks = [
            [convert.request_to_proto(chunk) for chunk in chunks_of(record_to_bytes(record), MAX_CHUNK_BYTES)]
            for record in trained
        ]
        self._warm, self._batches = warm, warm + batches
        self.applied = 0
        self._changed = threading.Condition()
        self._in_flight = 0
        self._begun = threading.Event()
        self._channel = grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)])
        self._replies = pb_grpc.TrainingStub(self._channel).Train(self._requests())  # type: ignore[no-untyped-call]

    def connect(self) -> None:
        """Wait for Welcome."""
        next(self._replies)

    def begin(self) -> None:
        """Send what comes after the first batches, too."""
        self._begun.set()

    def play(self, tell: Callable[[], None]) -> None:
        """Wait until all batches are applied, or the cloud is gone; `tell` is called at each Ack."""
        with contextlib.suppress(grpc.RpcError):
            self._take_acks(tell)

    def _take_acks(self, tell: Callable[[], None]) -> None:
        received = 0
        for proto in self._replies:
            ack = convert.reply_from_proto(proto)
            assert isinstance(ack, Ack)
            with self._changed:
                self._in_flight -= ack.received_bytes - received
                received = ack.received_bytes
                self._changed.notify_all()
            self.applied = ack.applied.batches
            tell()
            if self.applied >= self._batches:
                return

    def _requests(self) -> Iterator[pb.TrainRequest]:
        yield convert.request_to_proto(self._hello)
        for number, chunks in enumerate(self._chunks):
            if number == self._warm:
                self._begun.wait()
            for chunk in chunks:
                with self._changed:
                    self._changed.wait_for(lambda: self._in_flight < WINDOW)
                    self._in_flight += len(chunk.chunk.data)
                yield chunk
        threading.Event().wait()  # open to the end: closing would have the cloud save


@click.group()
def main() -> None:
    """An edge without a front, and a cloud without a back."""


@main.command()
@click.option("--listen", default="127.0.0.1:0")
@click.option("--record", type=click.Path(path_type=Path, dir_okay=False))
def sink(listen: str, record: Path | None) -> None:
    """Serve until stdin ends."""
    serve(Sink(record), listen)


@main.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True))
@click.option("--to", required=True, help="HOST:PORT of a cloud.")
@click.option("--edges", default=1, help="How many, with a session each.")
@click.option("--warm", default=0, help="Batches that each of them sends before the clock starts.")
@click.option("--batches", required=True, type=int, help="How many each of them sends from then on.")
def play(file: Path, to: str, edges: int, warm: int, batches: int) -> None:
    """Print `ready` once all have their first batches applied; at a line on stdin play the others.

    What is printed then is how long it took until the first edge had all its batches applied, and how many
    of them each had by then.
    """
    players = [Player(to, file, warm, batches) for _ in range(edges)]
    for player in players:
        player.connect()
    is_warm, done = threading.Event(), threading.Event()
    result: dict[str, object] = {}
    started = 0.0

    def tell() -> None:
        applied = [player.applied - warm for player in players]
        if min(applied) >= 0:
            is_warm.set()
        if not done.is_set() and max(applied) >= batches:
            result["seconds"] = time.monotonic() - started
            result["applied"] = applied
            done.set()

    def work(player: Player) -> None:
        player.play(tell)
        if not done.is_set():  # the cloud has ended its stream
            os._exit(1)

    for player in players:
        threading.Thread(target=work, args=(player,), daemon=True).start()
    if warm:
        is_warm.wait()
    click.echo("ready")
    sys.stdin.readline()
    started = time.monotonic()
    for player in players:
        player.begin()
    done.wait()
    click.echo(json.dumps(result))
    sys.stdin.readline()  # nothing is closed before the caller says so
    os._exit(0)


if __name__ == "__main__":
    main()
