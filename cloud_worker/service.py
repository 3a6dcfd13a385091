"""RPC surface of the cloud: parse, delegate, reply. No tensor maths here."""

import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc

from cloud_worker.first_message import FIRST_MESSAGE_S, first_of
from cloud_worker.sessions import Sessions
from cloud_worker.store import check_session_id
from cloud_worker.stream import TrainStream
from common.errors import CapacityError, WireError
from common.logs import one_line
from common.wire import convert
from common.wire.generated import training_pb2 as pb
from common.wire.generated import training_pb2_grpc as pb_grpc
from common.wire.messages import Hello, Request

log = logging.getLogger(__name__)

# Small, so that an edge behind a slow link sees that something comes.
EXPORT_PIECE_BYTES = 64 << 10
# Each holds a thread for as long as its caller's link takes.
EXPORTS_AT_ONCE = 4
EXPORTS_OF_ONE_CALLER = 2
MAX_DOWNLOAD_BYTES = 1 << 20
# A few batches take a slow link minutes.
PROFILE_S = 600.0


class TrainingService(pb_grpc.TrainingServicer):
    """Serves edges; expected failures become statuses in an interceptor.

    Args:
        sessions: what is served.
        identify: returns the name of a caller.
    """

    def __init__(self, sessions: Sessions, identify: Callable[[grpc.ServicerContext], str]) -> None:
        self._sessions = sessions
        self._identify = identify
        self._exports: Counter[str] = Counter()  # under way, by caller
        self._lock = threading.Lock()  # held for moments only

    def Train(
        self, request_iterator: Iterator[pb.TrainRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.TrainReply]:
        """Serve one stream of one session."""
        requests: Iterator[Request] = map(convert.request_from_proto, request_iterator)
        hello = first_of(requests, FIRST_MESSAGE_S)
        if hello is None:
            # It looks the same where its caller has left, or gRPC has refused a message above its limit.
            raise WireError("the stream ended before its first message; it must begin with Hello")
        if not isinstance(hello, Hello):
            raise WireError("the first message of a stream must be Hello")
        check_session_id(hello.session_id)
        with self._sessions.serving(hello, self._identify(context)) as session:
            stream = TrainStream(session, hello, self._sessions.limits)
            why = "the connection broke off"  # where gRPC closes this generator
            try:
                welcome = session.attach(hello, stream, context.is_active)
                log.info(
                    "session %s: an edge has connected, generation %d, at %s",
                    *(hello.session_id, hello.generation, session.progress),
                )
                yield convert.reply_to_proto(welcome)
                for ack in stream.serve(requests):
                    yield convert.reply_to_proto(ack)
                if context.is_active():
                    why = "the edge closed it"
            except Exception as error:
                why = one_line(str(error) or repr(error))
                raise
            finally:
                log.info("session %s: its stream ended at %s: %s", hello.session_id, session.progress, why)
                session.detach(stream)  # also where the edge left before it was served

    def ExportBack(
        self, request: pb.ExportRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.ExportChunk]:
        """Send the weights of a finished session in pieces."""
        check_session_id(request.session_id)
        caller = self._identify(context)
        path = self._sessions.weights_file(request.session_id, caller)
        with self._exporting(caller), path.open("rb") as file:
            total = path.stat().st_size
            while piece := file.read(EXPORT_PIECE_BYTES):
                yield pb.ExportChunk(total_bytes=total, data=piece)

    @contextmanager
    def _exporting(self, caller: str) -> Iterator[None]:
        """Count what `caller`, who may be anyone, is sent; raises CapacityError where there is too much."""
        with self._lock:
            if caller and self._exports[caller] >= EXPORTS_OF_ONE_CALLER:
                raise CapacityError(
                    f"{EXPORTS_OF_ONE_CALLER} exports or downloads of this edge are under way, which is "
                    "the limit; try again once one of them is done"
                )
            if self._exports.total() >= EXPORTS_AT_ONCE:
                raise CapacityError(
                    f"{EXPORTS_AT_ONCE} exports or downloads are under way at this cloud, which is its "
                    "limit; try again in a few minutes"
                )
            self._exports[caller] += 1
        try:
            yield
        finally:
            with self._lock:
                self._exports[caller] -= 1
                self._exports += Counter()  # drops those at zero

    def Profile(
        self, request_iterator: Iterator[pb.TrainRequest], context: grpc.ServicerContext
    ) -> pb.ProfileReply:
        """Tell how fast a run would be trained here; nothing of it is kept."""
        requests: Iterator[Request] = map(convert.request_from_proto, request_iterator)
        hello = first_of(requests, FIRST_MESSAGE_S)
        if not isinstance(hello, Hello):
            raise WireError("the first message of a profile must be Hello")
        # Whoever says nothing more must not keep others from being measured.
        too_late = threading.Timer(PROFILE_S, context.cancel)
        too_late.start()
        try:
            found = self._sessions.profile(hello.run, requests, context.is_active)
            return convert.profile_to_proto(found)
        finally:
            too_late.cancel()

    def Download(
        self, request: pb.DownloadRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.ExportChunk]:
        """Send what means nothing, for the caller to time its downlink with."""
        total = request.total_bytes
        if not 0 < total <= MAX_DOWNLOAD_BYTES:
            raise WireError(f"a download has 1 to {MAX_DOWNLOAD_BYTES} bytes, got {total}")
        with self._exporting(self._identify(context)):
            for sent in range(0, total, EXPORT_PIECE_BYTES):
                piece = os.urandom(min(EXPORT_PIECE_BYTES, total - sent))
                yield pb.ExportChunk(total_bytes=total, data=piece)

    def GetStatus(self, request: pb.StatusRequest, context: grpc.ServicerContext) -> pb.StatusReply:
        """Tell where one session stands."""
        check_session_id(request.session_id)
        status = self._sessions.status(request.session_id, self._identify(context))
        return convert.status_to_proto(status)
