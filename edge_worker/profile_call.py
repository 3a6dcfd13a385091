"""Asks a cloud how fast it would train a run, and takes the time of the link to it."""

import logging
import time
from collections.abc import Callable, Sequence
from itertools import cycle
from typing import TypeVar

import grpc

from common.errors import CapacityError, CloudError, WireError
from common.link.framing import wire_bytes
from common.wire import convert
from common.wire.generated import training_pb2 as pb
from common.wire.generated import training_pb2_grpc as pb_grpc
from common.wire.messages import MAX_CHUNK_BYTES, BackProfile, Hello, Request, Run
from common.wire.reassembly import chunks_of
from edge_worker.access import endpoint
from edge_worker.config import TrainConfig
from edge_worker.replies import AHEAD
from edge_worker.statuses import explain

T = TypeVar("T")

log = logging.getLogger(__name__)

# As many batches are sent as fit into so many bytes, but no fewer than two: a slow link takes long for them.
SAMPLE_BYTES = 1 << 20
MIN_BATCHES, MAX_BATCHES = 2, 4
# The first ones time the link, too: where they are small they are repeated, as long as the cloud takes them,
# until they are well above the 64 KiB that gRPC takes in at once.
TIMED_BYTES, MAX_REPEATED = 256 << 10, 16
CHUNK_BYTES = 64 << 10
CALL_S = 900.0
# While the cloud measures another edge's network, or is full.
TRIES, PAUSE_S = 30, 10.0
# Of which the shortest tells of the link.
ROUND_TRIPS, ROUND_TRIP_S = 9, 30.0
# What comes down to be timed, and after how long that is enough.
DOWNLOAD_BYTES, DOWNLOAD_S = 1 << 20, 10.0
# No cloud keeps it.
NO_SESSION = "00000000-0000-4000-8000-000000000000"


class Asked:
    """The cloud of a profile.

    Args:
        config: where it is.
        pause: waits so many seconds.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        config: TrainConfig,
        pause: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cloud = endpoint(config.cloud, config)
        self._cloud.warn_of_clear()
        self._pause = pause
        self._clock = clock
        self._has_timed = False

    def check(self) -> None:
        """Ask for one byte, so that what every call would end with is known before any work is done.

        Raises:
            CloudError: the cloud cannot be reached, or is busy for minutes.
            HeadwaterError: it refuses.
        """
        self._round_trips_s(1)

    def ask(self, run: Run | None, records: Sequence[bytes]) -> BackProfile:
        """Return what the cloud measured of a run on some of these batches.

        Raises:
            CapacityError: it took too long, or the run is too large for it, or for what others leave of it.
            CloudError: it cannot be reached, or is busy for minutes.
            HeadwaterError: it refuses, or answers what cannot be.
        """
        assert run is not None  # whoever asks has a cloud
        hello = Hello(session_id=NO_SESSION, generation=1, run=run, losses_from=0)
        sample = sample_of(records, 0 if self._has_timed else TIMED_BYTES)
        requests: list[Request] = [
            hello,
            *(chunk for each in sample for chunk in chunks_of(each, CHUNK_BYTES)),
        ]
        found = self._patiently(lambda: self._call(requests))
        self._has_timed = True
        return found

    def _patiently(self, call: Callable[[], T]) -> T:
        """Return what a call does, again and again as long as the cloud is full."""
        for attempt in range(1, TRIES + 1):
            try:
                return call()
            except CapacityError as error:
                if "try again" not in str(error):
                    raise
                if attempt == TRIES:
                    if "memory" in str(error):  # another place may take less of it
                        raise
                    raise CloudError(
                        f"{error} (it said so {TRIES} times); the same command goes on"
                    ) from error
                log.info("%s; it is tried again in %.0f s", error, PAUSE_S)
                self._pause(PAUSE_S)
        raise AssertionError("the last attempt returns or raises")

    def latency_s(self) -> float:
        """Return the seconds of one way: half of the shortest of some round trips.

        Raises:
            CloudError: the cloud cannot be reached, or is busy for minutes.
            HeadwaterError: it refuses.
        """
        return min(self._round_trips_s(ROUND_TRIPS)) / 2

    def down_bps(self) -> float:
        """Return the downlink's rate in bit/s: how fast bytes come that the cloud sends for that.

        Raises:
            CloudError: the cloud cannot be reached, or is busy for minutes.
            HeadwaterError: it refuses, or sends too little.
        """
        return self._patiently(self._download)

    def _download(self) -> float:
        received, started, took = 0, None, 0.0
        with self._cloud.open(AHEAD) as channel:  # as in training
            stub = pb_grpc.TrainingStub(channel)  # type: ignore[no-untyped-call]
            call = stub.Download(pb.DownloadRequest(total_bytes=DOWNLOAD_BYTES), timeout=CALL_S)
            try:
                for piece in call:
                    now = self._clock()
                    if started is None:
                        started = now
                        continue  # it was under way for longer than its bytes take
                    received, took = received + len(piece.data), now - started
                    if took > DOWNLOAD_S:
                        break
            except grpc.RpcError as error:
                raise explain(error, self._cloud) from error
            finally:
                call.cancel()
        if not received or not took:
            raise WireError(f"the cloud sent too little of {DOWNLOAD_BYTES} bytes to time the downlink with")
        return 8 * received / took

    def _round_trips_s(self, count: int) -> list[float]:
        with self._cloud.open() as channel:
            stub = pb_grpc.TrainingStub(channel)  # type: ignore[no-untyped-call]
            return [self._patiently(lambda: self._round_trip_s(stub)) for _ in range(count)]

    def _round_trip_s(self, stub: pb_grpc.TrainingStub) -> float:
        """Have one byte sent, which is the shortest question and the shortest answer."""
        started = self._clock()
        try:
            for _ in stub.Download(pb.DownloadRequest(total_bytes=1), timeout=ROUND_TRIP_S):
                pass
        except grpc.RpcError as error:
            raise explain(error, self._cloud) from error
        return self._clock() - started

    def _call(self, requests: Sequence[Request]) -> BackProfile:
        with self._cloud.open() as channel:
            stub = pb_grpc.TrainingStub(channel)  # type: ignore[no-untyped-call]
            try:
                sent = iter([convert.request_to_proto(each) for each in requests])
                return convert.profile_from_proto(stub.Profile(sent, timeout=CALL_S))
            except grpc.RpcError as error:
                if error.code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED):
                    raise CapacityError(
                        f"the cloud at {self._cloud.address} did not come to an end with measuring; try a "
                        "smaller --batch-size, or a link that is less busy"
                    ) from error
                raise explain(error, self._cloud) from error


def on_the_wire(record_bytes: int) -> int:
    """Return what a record takes with its framing, in the largest chunks."""
    whole, left = divmod(record_bytes, MAX_CHUNK_BYTES)
    return whole * wire_bytes(MAX_CHUNK_BYTES) + (wire_bytes(left) if left else 0)


def sample_of(records: Sequence[bytes], at_least: int) -> list[bytes]:
    """Return the batches that are sent; some of them again, until they have `at_least` so many bytes."""
    sample: list[bytes] = []
    sent = 0
    for record in cycle(records):
        count = len(sample)
        is_enough = sent + len(record) > SAMPLE_BYTES or (
            count >= min(MAX_BATCHES, len(records)) and sent >= at_least
        )
        if count == MAX_REPEATED or (count >= MIN_BATCHES and is_enough):
            break
        sample.append(record)
        sent += len(record)
    return sample
