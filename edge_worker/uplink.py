"""The stream to the cloud: sends what the outbox holds, takes what the cloud says, reconnects when it breaks.

One thread runs streams one after the other; gRPC draws the requests of each in a thread of its own. The
training loop never waits for either.
"""

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import grpc

from common import errors
from common.endpoint import Endpoint
from common.errors import CloudError, HeadwaterError, SessionError
from common.logs import one_line, short_reason
from common.wire import convert
from common.wire.checks import check_reply
from common.wire.generated import training_pb2_grpc as pb_grpc
from common.wire.messages import (
    PROTOCOL_VERSION,
    Ack,
    Chunk,
    Hello,
    Note,
    Position,
    Reply,
    Run,
    Welcome,
)
from edge_worker.config import TrainConfig
from edge_worker.counters import Counters
from edge_worker.gradients import Gradients
from edge_worker.outbox import Outbox
from edge_worker.replies import AHEAD, Replies, SilentError
from edge_worker.sender import Sender
from edge_worker.statuses import FATAL

log = logging.getLogger(__name__)

# The cloud says something at least every 5 s; three times that and some slow link's delay is silence. There
# is no keepalive beside it: that would tell no more, and its pings would wait behind our own data.
SILENCE_S = 30.0
FIRST_RETRY_S = 0.5
LAST_RETRY_S = 20.0
# How long a stream may take to end.
CLOSE_S = 5.0

# What ends a new run, and is an outage to one that the cloud has had: there may be room again, and whoever
# minds the cloud may have given it a wrong list of tokens.
MENDABLE = (errors.CapacityError, errors.UnknownCallerError, errors.CloudFailedError)


class StreamLostError(Exception):
    """The stream broke in a way that another try may mend."""


class Uplink:
    """Keeps one stream open until the run is over.

    Args:
        config: the link.
        cloud: where the cloud is.
        make_hello: returns the Hello for the next stream.
        outbox: what to send.
        counters: where bytes and busy times are counted.
        on_ack: called with each Ack, in order, on the uplink's thread.
        gradients: takes those that come back; None where none do.
        patient: the cloud has had the run in an earlier life, and may take its time.
    """

    def __init__(
        self,
        config: TrainConfig,
        cloud: Endpoint,
        make_hello: Callable[[], Hello],
        outbox: Outbox,
        counters: Counters,
        on_ack: Callable[[Ack], None],
        gradients: Gradients | None = None,
        patient: bool = False,
    ) -> None:
        self._config = config
        self._cloud = cloud
        self._make_hello = make_hello
        self._outbox = outbox
        self._counters = counters
        self._on_ack = on_ack
        self._gradients = gradients
        self._changed = outbox.changed
        self._welcome: Welcome | None = None
        self._started = False  # the loop has said where it starts; records may be sent
        self._patient = patient
        self._closing = False
        self._note: Note | None = None
        self._asked_at = Position(0)  # where the cloud stood when it was last asked to save
        self._call: Any = None
        self._thread = threading.Thread(target=self._run, name="uplink", daemon=True)

    # -------------------------------------------------------------- for the training thread

    def connect(self) -> Welcome | None:
        """Wait for the cloud's Welcome; returns None if the run is being interrupted before.

        Raises:
            CloudError: nobody answered within `--connect-timeout`.
            HeadwaterError: the cloud refused the session.
        """
        self._thread.start()
        with self._changed:
            while self._welcome is None and not self._outbox.leaving:
                self._outbox.check()
                self._changed.wait()
            return self._welcome

    def start(self) -> None:
        """Begin to send what the outbox holds; whoever did not connect before has all the time to."""
        with self._changed:
            self._started = True
            self._changed.notify_all()
        if self._thread.ident is None:
            self._patient = True
            self._thread.start()

    def note(self, losses_from: int, save: bool = False) -> None:
        """Tell the cloud which losses it may forget, and whether it should save now."""
        with self._changed:
            save = save or (self._note is not None and self._note.save)
            self._note = Note(losses_from=losses_from, save=save)
            self._changed.notify_all()

    def close(self, in_order: bool = True) -> None:
        """End the stream: `in_order` once what is under way is sent, for some seconds at most; or at once."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread.ident is None:
            return
        if in_order:
            self._thread.join(CLOSE_S)
        if self._thread.is_alive() and self._call is not None:
            self._call.cancel()
        self._thread.join(CLOSE_S)

    # -------------------------------------------------------------- the uplink's thread

    def _run(self) -> None:
        try:
            self._keep_connected()
        except HeadwaterError as error:
            self._outbox.fail(error)
        except BaseException as failure:
            self._outbox.fail(CloudError(f"the uplink failed: {failure!r}"))
            raise

    def _keep_connected(self) -> None:
        deadline = time.monotonic() + self._config.connect_timeout
        failures = 0
        while not self._closing:
            before = self._welcome
            try:
                self._run_stream()
                return
            except (StreamLostError, *MENDABLE) as lost:
                refused = isinstance(lost, MENDABLE)
                if refused and not self._was_welcome:
                    raise
                if self._closing:
                    return
                # One that fails whenever it goes on is not to be asked without end, one after the other.
                if self._welcome is not before and not isinstance(lost, errors.CloudFailedError):
                    failures, refusal = 0, None
                else:
                    refusal = str(lost) if refused else self._cloud.explain_failure()
                pause = pause_after(failures)
                failures += 1
                if not self._was_welcome:
                    late = time.monotonic() + pause > deadline
                    # Twice: a cloud that is just leaving hangs up as one does that refuses.
                    if refusal and (late or failures > 1):
                        raise CloudError(refusal) from lost
                    if late:
                        raise self._no_cloud(lost) from lost
                else:
                    nobody = f"no cloud answers at {self._config.cloud}, if it is elsewhere give --cloud"
                    what = "lost the cloud" if self._welcome else nobody
                    why = refusal or f"{what} ({lost})"
                    log.warning("%s; trying again in %.1f s, %s", why, pause, self._meanwhile)
                with self._changed:
                    self._changed.wait_for(lambda: self._closing, pause)

    @property
    def _meanwhile(self) -> str:
        """What the run does while there is no cloud."""
        if self._outbox.complete:
            return "what is left is sent then"
        waits = not self._started or self._outbox.blocked or self._gradients is not None
        return "training waits until it is back" if waits else "training goes on"

    @property
    def _was_welcome(self) -> bool:
        """Whether the cloud has had this run, in this life or an earlier one."""
        return self._patient or self._welcome is not None

    def _no_cloud(self, lost: Exception) -> CloudError:
        return CloudError(
            f"no cloud answers at {self._config.cloud} within {self._config.connect_timeout:g} s ({lost}); "
            "start `cloud-worker serve` there, or give its address with --cloud"
        )

    def _run_stream(self) -> None:
        """Run one stream to its end; raises StreamLostError where another one should follow."""
        hello = self._make_hello()
        if self._gradients is not None:
            hello = replace(hello, gradients_from=self._gradients.restart())
        stream = Sender(self._config, self._outbox, self._counters, lambda: self._closing, self._take_note)
        replies: Replies | None = None
        options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
        channel = self._cloud.open(options + (AHEAD if self._gradients is not None else []))
        try:
            shaped = grpc.intercept_channel(channel, stream.link)
            self._call = pb_grpc.TrainingStub(shaped).Train(stream.requests(hello))  # type: ignore[no-untyped-call]
            replies = Replies(self._call)
            known = self._welcome is not None or self._patient
            welcome = _next(replies, hello.run, SILENCE_S if known else self._config.connect_timeout)
            if welcome is None and self._closing:
                return
            self._check_welcome(welcome)
            if not self._started:
                return  # the run failed to start; nobody listens
            stream.welcomed.set()
            while (reply := _next(replies, hello.run, SILENCE_S)) is not None:
                self._take(reply, stream)
            if not self._closing:
                raise StreamLostError("the cloud ended the stream")
        finally:
            stream.stop()
            self._call.cancel()
            if replies is not None:
                replies.stop()
            channel.close()

    def _take(self, reply: Reply, stream: Sender) -> None:
        if isinstance(reply, Ack):
            stream.acknowledged(reply)
            # First what it tells: once all is confirmed, nobody waits for it any more.
            self._on_ack(reply)
            self._outbox.confirm(reply.applied, reply.durable)
            self._ask_for_room(reply)
        elif isinstance(reply, Chunk) and self._gradients is not None:
            self._gradients.put(reply)
        else:
            raise errors.WireError(
                "the cloud may say Welcome only once, and send gradients only where they are asked for"
            )

    def _check_welcome(self, welcome: Reply | None) -> None:
        if not isinstance(welcome, Welcome):
            raise errors.WireError("the cloud's first message must be Welcome")
        if welcome.protocol_version != PROTOCOL_VERSION:
            raise SessionError(
                f"this edge speaks protocol {PROTOCOL_VERSION}, the cloud {welcome.protocol_version}; "
                "install the same headwater on both"
            )
        with self._changed:
            again = self._welcome is not None
            self._welcome = welcome
            self._asked_at = Position(0)
            self._changed.notify_all()
            # The first Welcome may decide from which checkpoint the loop starts; records wait for that.
            self._changed.wait_for(lambda: self._started or self._closing)
            if self._started:
                self._outbox.rewind(welcome.applied)
        if again:
            log.info("connected again; the cloud stands at batch %d", welcome.applied.batches)

    def _ask_for_room(self, ack: Ack) -> None:
        """Ask the cloud to save where that would free a good part of the outbox; once for each save."""
        with self._changed:
            if self._outbox.wants_save and self._asked_at <= ack.durable:
                self._asked_at = ack.applied
                self._note = Note(losses_from=self._make_hello().losses_from, save=True)
                self._changed.notify_all()

    def _take_note(self) -> Note | None:
        note, self._note = self._note, None
        return note


def pause_after(failures: int) -> float:
    """Return the seconds to wait after so many failures and one: doubled each time, bounded, jittered."""
    # Bounded before it becomes a float: an outage of hours has a thousand failures.
    return min(LAST_RETRY_S, FIRST_RETRY_S * 2.0 ** min(failures, 30)) * random.uniform(0.5, 1.0)


def _next(replies: Replies, run: Run, timeout_s: float) -> Reply | None:
    """Return the next reply, checked against the run; None when the cloud has ended the stream in order.

    Raises:
        StreamLostError: the stream broke, or the cloud was silent for `timeout_s`.
        HeadwaterError: the cloud refused, with a status that another try will not mend.
    """
    try:
        proto = replies.next(timeout_s)
    except SilentError as error:
        raise StreamLostError(str(error)) from None
    except grpc.RpcError as error:
        code, details = error.code(), one_line(error.details() or "")
        if code in FATAL:
            raise FATAL[code](f"the cloud refused: {details}") from error
        raise StreamLostError(f"{code.name}: {short_reason(details)}") from error
    if proto is None:
        return None
    reply = convert.reply_from_proto(proto)
    if not isinstance(reply, Chunk):
        check_reply(reply, run)
    return reply
