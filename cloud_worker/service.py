"""RPC surface of the cloud: parse, delegate, reply. No tensor maths here."""

import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from cloud_worker.sessions import Sessions
from cloud_worker.store import check_session_id
from cloud_worker.stream import TrainStream
from common.errors import HeadwaterError, WireError
from common.logs import one_line
from common.wire import convert
from common.wire.generated import training_pb2 as pb
from common.wire.generated import training_pb2_grpc as pb_grpc
from common.wire.messages import Hello, Request

log = logging.getLogger(__name__)

EXPORT_PIECE_BYTES = 1 << 20


class TrainingService(pb_grpc.TrainingServicer):
    """Serves edges; expected failures become statuses in an interceptor."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def Train(
        self, request_iterator: Iterator[pb.TrainRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.TrainReply]:
        """Serve one stream of one session."""
        requests: Iterator[Request] = (convert.request_from_proto(proto) for proto in request_iterator)
        hello = next(requests, None)
        if not isinstance(hello, Hello):
            raise WireError("the first message of a stream must be Hello")
        check_session_id(hello.session_id)
        with self._sessions.serving(hello) as session:
            stream = TrainStream(session, hello)
            try:
                yield convert.reply_to_proto(session.attach(hello, stream))
                for ack in stream.serve(requests):
                    yield convert.reply_to_proto(ack)
            finally:
                session.detach(stream)  # also where the edge left before it was served

    def ExportBack(
        self, request: pb.ExportRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.ExportChunk]:
        """Send the weights of a finished session in pieces."""
        check_session_id(request.session_id)
        path = self._sessions.weights_file(request.session_id)
        total = path.stat().st_size
        with path.open("rb") as file:
            while piece := file.read(EXPORT_PIECE_BYTES):
                yield pb.ExportChunk(total_bytes=total, data=piece)

    def GetStatus(self, request: pb.StatusRequest, context: grpc.ServicerContext) -> pb.StatusReply:
        """Tell where one session stands."""
        check_session_id(request.session_id)
        return convert.status_to_proto(self._sessions.status(request.session_id))


class ErrorsToStatus(grpc.ServerInterceptor):  # type: ignore[type-arg]  # generic in stubs only
    """End a call with the status that its HeadwaterError names; a bug stays UNKNOWN."""

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """Wrap the handler of this call, if there is one."""
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        if handler.response_streaming:
            wrap = (
                grpc.stream_stream_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
            inner = handler.stream_stream if handler.request_streaming else handler.unary_stream
            guarded: Any = _guard_stream(inner, _parser(handler))
        else:
            wrap = grpc.unary_unary_rpc_method_handler
            guarded = _guard_unary(handler.unary_unary, _parser(handler))
        return wrap(guarded, None, handler.response_serializer)


def _parser(handler: Any) -> Callable[[Any], Any]:
    """Return what parses a call's request, or each of them.

    gRPC would answer what does not parse with INTERNAL, and log a traceback for each.
    """

    def parse(data: bytes) -> Any:
        try:
            return handler.request_deserializer(data)
        except DecodeError as error:
            raise WireError(f"a message of {len(data)} bytes does not parse: {error}") from error

    return partial(map, parse) if handler.request_streaming else parse


def _guard_stream(inner: Any, parse: Callable[[Any], Any]) -> Any:
    # A generator, so that it also catches what is raised after the first reply.
    def guarded(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        try:
            yield from inner(parse(request), context)
        except HeadwaterError as error:
            _abort(context, error)

    return guarded


def _guard_unary(inner: Any, parse: Callable[[Any], Any]) -> Any:
    def guarded(request: Any, context: grpc.ServicerContext) -> Any:
        try:
            return inner(parse(request), context)
        except HeadwaterError as error:
            return _abort(context, error)

    return guarded


def _abort(context: grpc.ServicerContext, error: HeadwaterError) -> Any:
    line = one_line(str(error))
    log.warning("ended a call of %s: %s", context.peer(), line)
    context.abort(error.status, line)
