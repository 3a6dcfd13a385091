"""A cloud on loopback that follows a script: one generator for each stream, in the order they are opened."""

from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager

import grpc

from common.wire import convert
from common.wire.generated import training_pb2 as pb
from common.wire.generated import training_pb2_grpc as pb_grpc
from common.wire.messages import Ack, Chunk, Hello, Note, Position, Reply, Request, Welcome
from common.wire.records import record_from_bytes
from tests.unit.records import RUN

Script = Callable[[Iterator[Request], grpc.ServicerContext], Iterator[Reply]]


class FakeCloud(pb_grpc.TrainingServicer):
    """Plays one script a stream; what comes beyond the last one is refused as a bug would be.

    Attributes:
        address: HOST:PORT.
        hellos, notes: all that came, in order.
        up, down: protobuf sizes of all messages, in order.
    """

    def __init__(self, scripts: tuple[Script, ...]) -> None:
        self.address = ""
        self.hellos: list[Hello] = []
        self.notes: list[Note] = []
        self.up: list[int] = []
        self.down: list[int] = []
        self._scripts = iter(scripts)

    def Train(self, request_iterator, context):
        """Play the next script."""
        for reply in next(self._scripts)(self._read(request_iterator), context):
            proto = convert.reply_to_proto(reply)
            self.down.append(proto.ByteSize())
            yield proto

    def _read(self, protos: Iterator[pb.TrainRequest]) -> Iterator[Request]:
        for proto in protos:
            self.up.append(proto.ByteSize())
            request = convert.request_from_proto(proto)
            kept = {Hello: self.hellos, Note: self.notes}.get(type(request))
            if kept is not None:
                kept.append(request)
            yield request


@contextmanager
def fake_cloud(*scripts: Script) -> Iterator[FakeCloud]:
    cloud = FakeCloud(scripts)
    server = grpc.server(futures.ThreadPoolExecutor(4))
    pb_grpc.add_TrainingServicer_to_server(cloud, server)
    cloud.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield cloud
    finally:
        server.stop(0).wait()


def welcome(batches=0, **changes) -> Welcome:
    position = Position(batches)
    values = {"applied": position, "durable": Position(0), "max_record_bytes": 1 << 30, "results": ()}
    return Welcome(**{**values, **changes})


def serving(applied=0, seen=None) -> Script:
    """Return a script that applies what comes, each record in one chunk.

    Args:
        applied: how many batches the cloud says that it has already.
        seen: gets the position after each record.
    """

    def script(messages, context):
        next(messages)
        yield welcome(applied)
        received = 0
        for message in messages:
            if not isinstance(message, Chunk):
                continue
            after = record_from_bytes(message.data, RUN).after
            received += len(message.data)
            if seen is not None:
                seen.append(after)
            yield Ack(received_bytes=received, applied=after, durable=after)

    return script


def deaf(count: int, then=lambda context: None) -> Script:
    """Return a script that takes `count` messages and confirms none; `then` may abort the stream."""

    def script(messages, context):
        next(messages)
        yield welcome()
        for _ in range(count):
            next(messages)
        then(context)

    return script


def abort(code: grpc.StatusCode, details="for this reason") -> Callable[[grpc.ServicerContext], None]:
    return lambda context: context.abort(code, details)
