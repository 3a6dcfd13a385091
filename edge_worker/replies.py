"""What a call brings, with a limit on silence. How long it may take in all is the link's affair."""

import contextlib
import queue
import threading
from collections.abc import Iterator
from typing import Any

# Replies that wait to be looked at; one may have 4 MiB.
MAX_UNREAD = 16
# Channel options where the cloud sends much: what it may send ahead. 16 s of a link of 64 kbit/s, so that a
# ping gets through behind it; with gRPC's own 4 MiB the cloud would take such a link for dead.
AHEAD = [("grpc.http2.lookahead_bytes", 128 << 10), ("grpc.http2.bdp_probe", 0)]


class SilentError(Exception):
    """Nothing came for as long as it may take."""


class Replies:
    """The replies of a call, drawn by a thread that ends with it or with `stop`.

    Args:
        call: yields messages; raises what ended it, if that was not well.
    """

    def __init__(self, call: Iterator[Any]) -> None:
        self._call = call
        # A cloud that says more than is taken here has to wait.
        self._queue: queue.Queue[Any] = queue.Queue(MAX_UNREAD)
        self._stopped = False
        threading.Thread(target=self._pump, name="replies", daemon=True).start()

    def next(self, timeout_s: float) -> Any:
        """Return the next reply, or None when the call has ended in order.

        Raises:
            SilentError: nothing came for `timeout_s`.
            grpc.RpcError: the call has ended so.
        """
        try:
            item = self._queue.get(timeout=timeout_s)
        except queue.Empty:
            raise SilentError(f"the cloud was silent for {timeout_s:g} s") from None
        if isinstance(item, BaseException):
            raise item
        return item

    def stop(self) -> None:
        """Let the thread end; what it still has is read by nobody."""
        self._stopped = True
        with contextlib.suppress(queue.Empty):
            while True:
                self._queue.get_nowait()

    def _pump(self) -> None:
        try:
            for reply in self._call:
                if self._stopped:
                    return
                self._queue.put(reply)
            self._queue.put(None)
        except BaseException as error:
            self._queue.put(error)
