"""What goes around every RPC: who may call at all, and what failures become."""

import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from common.errors import HeadwaterError, WireError
from common.logs import one_line

log = logging.getLogger(__name__)

# Anyone may ask whether the server serves. Not `Watch`, which would hold a thread.
OPEN = frozenset({"/grpc.health.v1.Health/Check"})


class OnlyKnown(grpc.ServerInterceptor):  # type: ignore[type-arg]  # generic in stubs only
    """Refuse whoever `identify` does not know, before the RPC reads a message.

    Args:
        identify: returns a caller's name, or raises a HeadwaterError.
    """

    def __init__(self, identify: Callable[[grpc.ServicerContext], str]) -> None:
        self._identify = identify

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """Wrap the handler of this call, unless it is open to all."""
        handler = continuation(handler_call_details)
        if handler_call_details.method in OPEN:
            return handler
        if handler is None:
            return None
        return _wrapped(handler, self._check_stream, self._check, handler.request_deserializer)

    def _check(self, inner: Any) -> Any:
        def checked(request: Any, context: grpc.ServicerContext) -> Any:
            self._identify(context)
            return inner(request, context)

        return checked

    def _check_stream(self, inner: Any) -> Any:
        def checked(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            self._identify(context)
            yield from inner(request, context)

        return checked


class ErrorsToStatus(grpc.ServerInterceptor):  # type: ignore[type-arg]  # generic in stubs only
    """End a call with the status that its HeadwaterError names; a bug stays UNKNOWN."""

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """Wrap the handler of this call, if there is one."""
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        parse = _parser(handler)
        guard_stream, guard = partial(_guard_stream, parse=parse), partial(_guard, parse=parse)
        return _wrapped(handler, guard_stream, guard, deserializer=None)


def _wrapped(
    handler: Any, wrap_stream: Callable[[Any], Any], wrap: Callable[[Any], Any], deserializer: Any
) -> Any:
    """Return `handler` with its behaviour wrapped, by `wrap_stream` where it answers with a stream."""
    if handler.response_streaming:
        make: Any = (
            grpc.stream_stream_rpc_method_handler
            if handler.request_streaming
            else grpc.unary_stream_rpc_method_handler
        )
        inner = wrap_stream(handler.stream_stream if handler.request_streaming else handler.unary_stream)
    else:
        make, inner = grpc.unary_unary_rpc_method_handler, wrap(handler.unary_unary)
    return make(inner, deserializer, handler.response_serializer)


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


def _guard(inner: Any, parse: Callable[[Any], Any]) -> Any:
    def guarded(request: Any, context: grpc.ServicerContext) -> Any:
        try:
            return inner(parse(request), context)
        except HeadwaterError as error:
            return _abort(context, error)

    return guarded


def _abort(context: grpc.ServicerContext, error: HeadwaterError) -> Any:
    line = one_line(str(error))
    log.warning("ended a call of %s: %s", context.peer() or "one who has left", line)
    context.abort(error.status, line)
