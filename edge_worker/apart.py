"""Runs a function in a process of its own, whose memory is its own, and which does not outlive this one."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from common.errors import HeadwaterError

T = TypeVar("T")

ASKED = (signal.SIGINT, signal.SIGTERM)
ASK_EVERY_S = 1.0


class BrokenOffError(HeadwaterError):
    """The process ended without a result."""


def apart(
    function: Callable[..., T],
    *arguments: Any,
    on_stop: Callable[[Callable[[], None]], None] | None = None,
) -> T:
    """Return what `function` returns in a process that is started anew.

    It ends with this process, however this one ends. Signals from a terminal or a service manager go to both
    and are left to this one.

    Args:
        function: picklable, as what it takes and returns.
        arguments: what it takes.
        on_stop: given a call by which the function is asked to end, as by a first SIGTERM; without it, the
            process is ended as it is.

    Raises:
        HeadwaterError: what the function raised.
        BrokenOffError: the process was killed, or the function raised anything else.
    """
    context = multiprocessing.get_context("spawn")
    result, say = context.Pipe(duplex=False)
    lifeline, life = context.Pipe(duplex=False)
    process = context.Process(
        target=_serve, args=(function, arguments, say, lifeline, on_stop is not None), daemon=True
    )
    resource_tracker.ensure_running()  # which lets them through when it is started
    # Held back in it until it knows what to do with them.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ASKED)
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    say.close()
    lifeline.close()
    if on_stop is not None:
        on_stop(life.close)
    try:
        value, error = result.recv()
    except EOFError:
        process.join()
        code = process.exitcode or 0
        why = (
            f"was killed by signal {-code}, perhaps as the memory did not suffice"
            if code < 0
            else "broke off"
        )
        raise BrokenOffError(f"its process {why}") from None
    finally:
        life.close()
    process.join()
    if error is not None:
        raise error
    return value  # type: ignore[no-any-return]


def _serve(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    say: Connection,
    lifeline: Connection,
    graceful: bool,
) -> None:
    for number in ASKED:  # what the function does not take itself is for the other process
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKED)
    threading.Thread(target=_end_with, args=(lifeline, graceful), daemon=True).start()
    answer: tuple[Any, HeadwaterError | None]
    try:
        answer = function(*arguments), None
    except HeadwaterError as error:
        answer = None, error
    with suppress(BrokenPipeError):  # the other process is gone
        say.send(answer)


def _end_with(lifeline: Connection, graceful: bool) -> None:
    """Wait until the other process closes its end, or is gone; then end this one."""
    with suppress(EOFError):
        lifeline.recv()
    if not graceful:
        os._exit(1)
    while True:  # it may not have been listening yet; once it was, the next ones are ignored
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(ASK_EVERY_S)
