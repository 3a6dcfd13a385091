"""A real gRPC server in this process, and an edge that says to it whatever a test wants."""

import queue
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import grpc
import pytest
import torch

from cloud_worker.config import ServeConfig
from cloud_worker.door import Door
from cloud_worker.server import start_server
from cloud_worker.sessions import Sessions
from cloud_worker.unread import EndUnread
from common.wire import convert
from common.wire.generated import training_pb2_grpc as pb_grpc
from common.wire.messages import Ack, Position
from common.wire.reassembly import chunks_of
from common.wire.records import record_to_bytes
from tests.unit.records import hello

PATIENCE_S = 60.0  # a hung server fails the test; nothing is expected to take so long


class Edge:
    """One stream: requests go when they are told, replies are read when they are asked for."""

    def __init__(self, stub, metadata=None):
        self._requests = queue.SimpleQueue()
        self.call = stub.Train(iter(self._requests.get, None), timeout=PATIENCE_S, metadata=metadata)

    def send(self, *requests):
        """Send messages as they are."""
        for request in requests:
            self._requests.put(convert.request_to_proto(request))

    def send_bytes(self, record: bytes, chunk_bytes=1 << 20):
        """Send one serialised record, or what claims to be one."""
        self.send(*chunks_of(record, chunk_bytes))

    def send_records(self, *records):
        """Send records, each in one chunk."""
        for record in records:
            self.send_bytes(record_to_bytes(record))

    def close(self):
        """Say that nothing more will come."""
        self._requests.put(None)

    def reply(self):
        """Return the next message of the cloud."""
        return convert.reply_from_proto(next(self.call))

    def acks(self) -> list[Ack]:
        """Return all acks until the cloud ends the stream."""
        return [convert.reply_from_proto(reply) for reply in self.call]

    def until(self, position: Position) -> Ack:
        """Return the first ack that says so much is applied."""
        while (ack := self.reply()).applied < position:
            pass
        return ack


def until(condition):
    """Return once a condition holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@contextmanager
def cloud_in_process(run_dir, **settings) -> Iterator[SimpleNamespace]:
    """Serve on a free port; yields `address`, `stub`, `sessions`, and `edge` to open streams with."""
    config = ServeConfig(**{"listen": "127.0.0.1:0", "run_dir": run_dir, "max_sessions": 4, **settings})
    sessions = Sessions(run_dir, torch.device("cpu"), checkpoint_every_s=60.0, limits=config)
    calls = EndUnread(config.idle_timeout)
    server, port = start_server(sessions, config, Door.read(config), calls)
    edges = []
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = pb_grpc.TrainingStub(channel)

        def edge(*requests, metadata=None) -> Edge:
            edges.append(Edge(stub, metadata))
            edges[-1].send(*requests)
            return edges[-1]

        try:
            yield SimpleNamespace(address=f"127.0.0.1:{port}", stub=stub, sessions=sessions, edge=edge)
        finally:
            for each in edges:
                each.close()
                each.call.cancel()
            server.stop(0).wait()
            until(lambda: not calls.any_open)  # each stream saves its session


def welcomed(cloud, metadata=None, **changes) -> Edge:
    """Return an edge whose Hello was accepted."""
    edge = cloud.edge(hello(**changes), metadata=metadata)
    edge.reply()
    return edge


@contextmanager
def refused(code: grpc.StatusCode, words: str):
    """The call in this block ends with this status, whose details hold `words` (a pattern) in one line."""
    with pytest.raises(grpc.RpcError) as caught:
        yield
    details = caught.value.details()
    assert caught.value.code() is code, details
    assert re.search(words, details), details
    assert "\n" not in details
