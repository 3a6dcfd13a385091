"""Calls whose replies nobody takes: each would hold a thread of the server for as long as its caller likes.

A reply is taken when HTTP/2's flow control has let all of it through. Until then the thread that sends it is
stuck in gRPC, so that another one has to look: one for all calls, there while any are open.
"""

import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

import grpc

from common.units import format_duration

log = logging.getLogger(__name__)


class EndUnread(grpc.ServerInterceptor):  # type: ignore[type-arg]  # generic in stubs only
    """End a call with many replies when one of them is not taken for `timeout_s`.

    It goes around `ErrorsToStatus`, so that all calls take streams. A call that waits for its next reply is
    not its business.

    Args:
        timeout_s: how long a caller has for each reply; after at most a quarter more the call ends.
        clock: monotonic seconds.
    """

    def __init__(self, timeout_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._timeout_s = timeout_s
        self._clock = clock
        self._lock = threading.Lock()  # held for moments only
        self._open: set[grpc.ServicerContext] = set()
        self._sending_since: dict[grpc.ServicerContext, float] = {}
        self._looks = False  # a thread does

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """Wrap the handler of this call, if there is one that streams."""
        handler = continuation(handler_call_details)
        if handler is None or not handler.response_streaming:
            return handler
        return grpc.stream_stream_rpc_method_handler(
            lambda requests, context: self.watched(handler.stream_stream(requests, context), context),
            handler.request_deserializer,
            handler.response_serializer,
        )

    def watched(self, replies: Generator[Any, None, None], context: grpc.ServicerContext) -> Iterator[Any]:
        """Yield `replies`, and have the call ended while one of them is not taken."""
        self._enter(context)
        try:
            for reply in replies:
                with self._lock:
                    self._sending_since[context] = self._clock()
                yield reply
                with self._lock:
                    del self._sending_since[context]
        finally:
            with self._lock:
                self._sending_since.pop(context, None)
            try:
                replies.close()  # a stream saves its session then
            finally:
                with self._lock:
                    self._open.discard(context)

    @property
    def any_open(self) -> bool:
        """Whether a call with many replies is under way."""
        with self._lock:
            return bool(self._open)

    def end_overdue(self) -> None:
        """End the calls whose reply has waited for too long."""
        with self._lock:
            latest = self._clock() - self._timeout_s
            overdue = [context for context, since in self._sending_since.items() if since < latest]
        for context in overdue:
            log.warning(
                "ended a call of %s: it took no reply for %s",
                *(context.peer() or "one who has left", format_duration(self._timeout_s)),
            )
            context.cancel()  # type: ignore[no-untyped-call]

    def _enter(self, context: grpc.ServicerContext) -> None:
        with self._lock:
            self._open.add(context)
            if self._looks:
                return
            self._looks = True
        threading.Thread(target=self._look, name="unread replies", daemon=True).start()

    def _look(self) -> None:
        while True:
            time.sleep(self._timeout_s / 4)
            self.end_overdue()
            with self._lock:
                if not self._open:
                    self._looks = False
                    return
