"""What goes around every RPC: who may call at all, and what failures become."""

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from cloud_worker.first_message import FIRST_MESSAGE_S, first_of
from common.errors import CloudError, HeadwaterError, WireError
from common.logs import one_line

log = logging.getLogger(__name__)

# Anyone may ask whether the server serves. Not `Watch`, which would hold a thread.
OPEN = frozenset({"/grpc.health.v1.Health/Check"})
# So that strangers who ask cannot hold all of the server's threads: how many may, and for how long each.
OPEN_AT_ONCE = 4
OPEN_S = 5.0


class OnlyKnown(grpc.ServerInterceptor):  # type: ignore[type-arg]  # generic in stubs only
    """Refuse whoever `identify` does not know, before the call reads a message or waits for one.

    A call with one request is taken as a stream of requests, too: gRPC would wait for that request on one of
    the server's threads, before anyone is asked who they are, for as long as the caller likes.

    Args:
        identify: returns a caller's name, or raises a HeadwaterError.
    """

    def __init__(self, identify: Callable[[grpc.ServicerContext], str]) -> None:
        self._identify = identify
        self._room = threading.BoundedSemaphore(OPEN_AT_ONCE)

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """Wrap the handler of this call, if there is one."""
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        if handler_call_details.method in OPEN:
            return _taking_streams(handler, self._in_little_room(_behaviour(handler, OPEN_S)))
        return _taking_streams(handler, self._if_known(_behaviour(handler, FIRST_MESSAGE_S)))

    def _if_known(self, inner: Any) -> Any:
        def checked(requests: Any, context: grpc.ServicerContext) -> Any:
            self._identify(context)
            return inner(requests, context)

        return checked

    def _in_little_room(self, inner: Any) -> Any:
        def checked(requests: Any, context: grpc.ServicerContext) -> Any:
            if not self._room.acquire(blocking=False):
                raise CloudError("too many who need not say who they are ask at once; try again")
            try:
                return inner(requests, context)
            finally:
                self._room.release()

        return checked


class ErrorsToStatus(grpc.ServerInterceptor):  # type: ignore[type-arg]  # generic in stubs only
    """End a call with the status that its HeadwaterError names; a bug stays UNKNOWN.

    It goes around `OnlyKnown`, so that all calls take streams.
    """

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """Wrap the handler of this call, if there is one."""
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        guard = _guard_stream if handler.response_streaming else _guard
        inner = _behaviour(handler, FIRST_MESSAGE_S)
        return _taking_streams(handler, guard(inner, handler.request_deserializer), parsed=False)


def _behaviour(handler: Any, timeout_s: float) -> Any:
    """Return what `handler` does, as a function of a stream of requests and the context."""
    if handler.request_streaming:
        return handler.stream_stream if handler.response_streaming else handler.stream_unary
    inner = handler.unary_stream if handler.response_streaming else handler.unary_unary

    def take_one(requests: Iterator[Any], context: grpc.ServicerContext) -> Any:
        request = first_of(requests, timeout_s)
        if request is None:
            raise WireError("the call ended before its request came")
        return inner(request, context)

    return take_one


def _taking_streams(handler: Any, behaviour: Any, parsed: bool = True) -> Any:
    """Return a handler with this behaviour that answers as `handler` does."""
    make: Any = (
        grpc.stream_stream_rpc_method_handler
        if handler.response_streaming
        else grpc.stream_unary_rpc_method_handler
    )
    return make(behaviour, handler.request_deserializer if parsed else None, handler.response_serializer)


def _parsed(requests: Iterator[bytes], parse: Any) -> Iterator[Any]:
    """Return the requests as messages, none of which is held while the next one is waited for.

    gRPC would answer what does not parse with INTERNAL, and log a traceback for each.
    """

    def message(data: bytes) -> Any:
        try:
            return parse(data)
        except DecodeError as error:
            raise WireError(f"a message of {len(data)} bytes does not parse: {error}") from error

    return map(message, requests)


def _guard_stream(inner: Any, parse: Any) -> Any:
    # A generator, so that it also catches what is raised after the first reply.
    def guarded(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[Any]:
        try:
            yield from inner(_parsed(requests, parse), context)
        except HeadwaterError as error:
            _abort(context, error)

    return guarded


def _guard(inner: Any, parse: Any) -> Any:
    def guarded(requests: Iterator[bytes], context: grpc.ServicerContext) -> Any:
        try:
            return inner(_parsed(requests, parse), context)
        except HeadwaterError as error:
            return _abort(context, error)

    return guarded


def _abort(context: grpc.ServicerContext, error: HeadwaterError) -> Any:
    line = one_line(str(error))
    log.warning("ended a call of %s: %s", context.peer() or "one who has left", line)
    context.abort(error.status, line)
