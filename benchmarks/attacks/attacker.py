"""Sends cases to a real server, one after the other, and keeps count of what it answers."""

import contextlib
import queue
import random
import threading
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import click
import grpc

from benchmarks.attacks.drawn import drawn
from benchmarks.attacks.malformed import Case, by_hand
from benchmarks.attacks.peer import Peer, requests
from common.logs import one_line
from common.tokens import HEADER, PREFIX
from common.wire.generated import training_pb2 as pb
from common.wire.messages import Run, Skip

SERVICE = "/headwater.v1.Training/"
PATIENCE_S = 60.0  # a call that is not answered by then counts as a wrong status
DRAWN_PER_PASS = 400  # drawn cases of one attacker between two passes through the list
# A bomb, or a message above the server's limit, must leave this side.
OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)]


@dataclass(slots=True)
class Tally:
    """What came of the messages so far; shared by the attackers.

    Attributes:
        total: messages to be sent.
        left: those still to be sent.
        go: set while they may be sent.
        under_way: messages not yet answered.
        sent: messages answered.
        statuses: how often each came.
        refused: how many of the answers were refusals by the server's own code, not by gRPC.
        wrong: each answer that is not right.
    """

    total: int
    left: int = field(init=False)
    go: threading.Event = field(default_factory=threading.Event)
    under_way: int = 0
    sent: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    wrong: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.left = self.total

    def take(self) -> bool:
        """Wait until a message may be sent; False where none is left."""
        self.go.wait()
        with self._lock:
            self.left -= 1
            self.under_way += self.left >= 0
            return self.left >= 0

    def stop(self) -> None:
        """Let no more be sent, whatever is left."""
        with self._lock:
            self.left = 0
        self.go.set()

    @property
    def is_done(self) -> bool:
        """Whether no message is left to be sent."""
        return self.left <= 0

    def add(self, case: Case, code: grpc.StatusCode, details: str) -> None:
        """Count the answer to one message."""
        refused = code is not grpc.StatusCode.OK
        with self._lock:
            self.sent += 1
            self.under_way -= 1
            self.statuses[code.name] += 1
            self.refused += refused and not case.by_grpc
            if code not in case.expected or (refused and (not details or one_line(details) != details)):
                self.wrong.append(f"{case.name}: {code.name} ({details[:300]!a})")


class Attacker:
    """A session of its own, over which one malformed message after the other goes.

    Args:
        address: of the server.
        run: what its session trains.
        token: by which the server knows it; a wrong edge, and no stranger.
        seed: of what it draws.
    """

    def __init__(self, address: str, run: Run, token: str, seed: int) -> None:
        self._rng = random.Random(seed)
        self._channel: Any = grpc.insecure_channel(address, OPTIONS)
        self._peer = Peer(run, str(uuid.UUID(int=self._rng.getrandbits(128), version=4)), token)
        self._at = 0

    def attack(self, tally: Tally, honest: Callable[[], str], drawn_first: int) -> None:
        """Send until nothing is left to send: drawn ones, the list, drawn ones again.

        Args:
            tally: counts the answers.
            honest: returns the session of somebody else.
            drawn_first: how many come before the list, so that not all attackers send that at once.
        """
        try:
            goes_on = self._send_drawn(tally, drawn_first)
            while goes_on:
                goes_on = self._send_list(tally, honest) and self._send_drawn(tally, DRAWN_PER_PASS)
        finally:
            self._channel.close()

    def _send_list(self, tally: Tally, honest: Callable[[], str]) -> bool:
        """Send the list; False once nothing is left."""
        tally.go.wait()
        # What was drawn may have moved the session on, and the list needs one that is beyond batch 0.
        self._train(Case("a batch", requests(Skip(0))))
        self._train(Case("a look", ()))
        for case in by_hand(self._peer, self._at, honest()):
            if not tally.take():
                return False
            tally.add(case, *self.send(case))
        return True

    def _send_drawn(self, tally: Tally, count: int) -> bool:
        """Send so many drawn cases; False once nothing is left."""
        for _ in range(count):
            if not tally.take():
                return False
            case = drawn(self._peer, self._at, self._rng)
            tally.add(case, *self.send(case))
        return True

    def settle(self) -> None:
        """Have the server build a network and refuse it: then it gives back what memory it has free."""
        hello = self._peer.hello(str(uuid.uuid4()), weights_digest="00")
        code, details = self.send(Case("another network", (hello,), welcomed=False))
        if code is not grpc.StatusCode.FAILED_PRECONDITION:
            raise click.ClickException(f"a Hello with other weights was answered with {code}: {details}")

    def send(self, case: Case) -> tuple[grpc.StatusCode, str]:
        """Send one case; return the status with which the server ends it."""
        if case.method not in ("GetStatus", "ExportBack", "Download"):
            return self._train(case)
        method = self._channel.unary_stream(SERVICE + case.method, None, None)
        return _ended(method(case.requests[0], timeout=PATIENCE_S, metadata=self._metadata(case)))

    def _train(self, case: Case) -> tuple[grpc.StatusCode, str]:
        said: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        call = self._channel.stream_stream(SERVICE + case.method, None, None)(
            iter(said.get, None),
            timeout=PATIENCE_S,
            metadata=self._metadata(case),
            compression=grpc.Compression.Gzip if case.gzip else None,
        )
        try:
            if case.welcomed:
                said.put(self._peer.hello(losses_from=self._at))
                self._at = pb.TrainReply.FromString(next(call)).welcome.applied.batches
            for each in case.requests:
                said.put(each)
            if not case.stalls:
                said.put(None)
            return _ended(call)
        except grpc.RpcError as error:
            return call.code(), f"instead of Welcome: {error}"
        finally:
            said.put(None)

    def _metadata(self, case: Case) -> list[tuple[str, str]]:
        shown = (PREFIX + self._peer.token,) if case.authorization is None else case.authorization
        return [(HEADER, each) for each in shown]


def _ended(call: Any) -> tuple[grpc.StatusCode, str]:
    with contextlib.suppress(grpc.RpcError):
        for _ in call:
            pass
    return call.code(), call.details() or ""
