"""What ends a run, what is tried again, and what the user reads then."""

import socket

import grpc
import pytest

from common import errors
from common.wire.messages import Ack, End, Position
from edge_worker.uplink import LAST_RETRY_S, pause_after
from tests.unit.edge_worker.fake_cloud import abort, deaf, fake_cloud, serving, welcome
from tests.unit.records import batches

Code = grpc.StatusCode
FATAL = {
    Code.INVALID_ARGUMENT: errors.WireError,
    Code.FAILED_PRECONDITION: errors.SessionError,
    Code.ABORTED: errors.FencedError,
    Code.DATA_LOSS: errors.CheckpointError,
    Code.UNIMPLEMENTED: errors.CloudError,
    Code.PERMISSION_DENIED: errors.NotOwnerError,
}
MENDABLE = {
    Code.RESOURCE_EXHAUSTED: errors.CapacityError,
    Code.UNAUTHENTICATED: errors.UnknownCallerError,
    Code.UNKNOWN: errors.CloudFailedError,
}
REASON = r"^the cloud refused: for this reason$"
fatal = pytest.mark.parametrize(("code", "kind"), FATAL.items(), ids=lambda value: getattr(value, "name", ""))
mendable = pytest.mark.parametrize(
    ("code", "kind"), MENDABLE.items(), ids=lambda value: getattr(value, "name", "")
)


def refusing(code):
    """Return a script that ends the stream instead of a Welcome."""

    def script(messages, context):
        next(messages)
        abort(code)(context)
        yield

    return script


def saying(*replies):
    """Return a script that says this whatever comes, and stays."""

    def script(messages, context):
        next(messages)
        yield from replies
        list(messages)

    return script


@pytest.fixture
def nobody():
    """Return an address on this machine that nobody listens at."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, so that no other process gets it, and never listening
        yield f"127.0.0.1:{taken.getsockname()[1]}"


# -------------------------------------------------------------------- fatal


@fatal
def test_a_fatal_status_reaches_the_next_offer_and_nothing_is_tried_again(edge, code, kind):
    """Above all not after ABORTED: a newer process has taken over."""
    with fake_cloud(deaf(1, abort(code)), serving()) as cloud:
        sender = edge(cloud.address).start()
        sender.offer(*batches(0))
        with pytest.raises(kind, match=REASON):
            sender.settled()

        with pytest.raises(kind, match=REASON) as raised:
            sender.offer(*batches(1))
        sender.uplink.close()

    assert type(raised.value) is kind
    assert len(cloud.hellos) == 1


@fatal
def test_a_session_that_is_refused_ends_the_first_connection(edge, code, kind):
    with fake_cloud(refusing(code), serving()) as cloud, pytest.raises(kind, match=REASON):
        edge(cloud.address).uplink.connect()

    assert len(cloud.hellos) == 1


@pytest.mark.parametrize(
    ("replies", "kind", "words"),
    [
        (
            [Ack(received_bytes=0, applied=Position(0), durable=Position(0))],
            errors.WireError,
            "must be Welcome",
        ),
        ([welcome(protocol_version=77)], errors.SessionError, r"speaks protocol 3, the cloud 77; install"),
    ],
    ids=["no Welcome", "other version"],
)
def test_a_cloud_that_does_not_speak_our_protocol_is_refused(edge, replies, kind, words):
    with fake_cloud(saying(*replies)) as cloud, pytest.raises(kind, match=words):
        edge(cloud.address).uplink.connect()


def test_a_second_welcome_is_refused(edge):
    with fake_cloud(saying(welcome(), welcome())) as cloud:
        sender = edge(cloud.address).start()
        sender.offer(*batches(0))

        with pytest.raises(errors.WireError, match="the cloud may say Welcome only once"):
            sender.settled()


def test_a_cloud_that_lost_what_it_had_confirmed_is_refused_with_both_numbers(edge):
    """Its run directory was put back, say: what it lacks is no longer here."""

    def forgetful(messages, context):
        next(messages)
        yield welcome()
        next(messages)
        yield Ack(received_bytes=1, applied=Position(1), durable=Position(1))

    with fake_cloud(forgetful, saying(welcome(0))) as cloud:
        sender = edge(cloud.address).start()
        sender.offer(*batches(0, 1))

        with pytest.raises(
            errors.SessionError, match=r"stands at batch 0, but had confirmed .* batch 1 durably"
        ):
            sender.settled()


@pytest.mark.parametrize(
    ("ack", "words"),
    [
        (
            Ack(received_bytes=1 << 40, applied=Position(0), durable=Position(0)),
            "confirms 1099511627776 bytes",
        ),
        (Ack(received_bytes=0, applied=Position(8), durable=Position(0)), "but the run ends at"),
    ],
    ids=["bytes", "position"],
)
def test_a_cloud_that_says_what_cannot_be_is_not_believed(edge, ack, words):
    with fake_cloud(saying(welcome(), ack)) as cloud:
        sender = edge(cloud.address).start()
        sender.offer(*batches(0))

        with pytest.raises(errors.WireError, match=words):
            sender.settled()


def test_what_a_cloud_says_cannot_reach_into_the_terminal(edge):
    def refusing(messages, context):
        next(messages)
        context.abort(Code.INVALID_ARGUMENT, "a\x1b[2J\nb")
        yield

    with (
        fake_cloud(refusing) as cloud,
        pytest.raises(errors.WireError, match=r"^the cloud refused: a\\x1b\[2J b$"),
    ):
        edge(cloud.address).uplink.connect()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_nothing_may_be_offered_to_an_uplink_that_failed_of_itself(edge, monkeypatch):
    """A bug on the uplink's thread must not leave the training loop waiting."""
    with fake_cloud(serving()) as cloud:
        sender = edge(cloud.address).start()
        monkeypatch.setattr(sender.outbox, "confirm", lambda *_: 1 / 0)
        sender.offer(*batches(0))

        with pytest.raises(errors.CloudError, match="the uplink failed: ZeroDivisionError"):
            sender.settled()


# -------------------------------------------------------------------- tried again


def test_nobody_at_the_address_is_said_after_the_timeout(edge, nobody):
    reason = r"UNAVAILABLE: Connection refused( \(111\))?"
    words = rf"^no cloud answers at {nobody} within 0\.2 s \({reason}\); start `cloud-worker serve` there"

    with pytest.raises(errors.CloudError, match=words) as raised:
        edge(nobody, connect_timeout=0.2).uplink.connect()

    assert "\n" not in str(raised.value)


def test_a_cloud_that_comes_late_is_found(edge):
    with fake_cloud(refusing(Code.UNAVAILABLE), refusing(Code.UNAVAILABLE), saying(welcome(4))) as cloud:
        found = edge(cloud.address).uplink.connect()

    assert found.applied == Position(4)


@mendable
def test_a_new_run_is_told_what_the_cloud_has_against_it(edge, code, kind):
    with (
        fake_cloud(refusing(code), serving()) as cloud,
        pytest.raises(kind, match=REASON),
    ):
        edge(cloud.address).uplink.connect()

    assert len(cloud.hellos) == 1


@mendable
def test_a_run_that_was_served_before_tries_again(edge, caplog, code, kind):
    """Others took its place while the cloud was away, or the cloud came back with a wrong list of tokens."""
    with fake_cloud(deaf(1, abort(Code.UNAVAILABLE)), refusing(code), serving()) as cloud:
        sender = edge(cloud.address).start()
        sender.offer(*batches(0))

        assert sender.settled()

    assert len(cloud.hellos) == 3
    assert "the cloud refused: for this reason; trying again in" in caplog.text


@mendable
def test_a_run_that_was_served_in_an_earlier_life_tries_again(edge, code, kind):
    """It starts without a word of the cloud."""
    with fake_cloud(refusing(code), serving()) as cloud:
        sender = edge(cloud.address)
        sender.uplink.start()
        sender.offer(*batches(0))

        assert sender.settled()

    assert len(cloud.hellos) == 2


@pytest.mark.parametrize(
    ("records", "said"),
    [(batches(0), "training goes on"), ([*batches(0, 1, 2, 3, 4, 5), End(6)], "what is left is sent then")],
    ids=["in training", "all trained"],
)
def test_a_lost_cloud_is_said_with_what_goes_on(edge, caplog, records, said):
    with fake_cloud(deaf(1, abort(Code.UNAVAILABLE)), serving()) as cloud:
        sender = edge(cloud.address)
        sender.uplink.connect()
        sender.outbox.start(Position(0), settled=Position(0))
        sender.offer(*records)
        sender.uplink.start()
        assert sender.settled()

    assert any(line.startswith("lost the cloud (UNAVAILABLE: for this reason); ") for line in caplog.messages)
    assert said in caplog.text


def test_a_cloud_that_falls_silent_is_left_for_another_stream(edge, monkeypatch):
    """A dead link may keep a connection open for hours; the cloud says something every few seconds."""
    monkeypatch.setattr("edge_worker.uplink.SILENCE_S", 0.2)
    seen = []
    with fake_cloud(saying(welcome()), *9 * [serving(seen=seen)]) as cloud:
        sender = edge(cloud.address).start()
        sender.offer(*batches(0))

        assert sender.settled()

    assert seen[0] == Position(1)


def test_a_cloud_that_falls_silent_before_its_welcome_is_left_as_soon(edge, monkeypatch):
    """However long the user lets the first connection take."""
    monkeypatch.setattr("edge_worker.uplink.SILENCE_S", 0.2)
    with fake_cloud(deaf(1), saying(), *9 * [serving()]) as cloud:
        sender = edge(cloud.address, connect_timeout=600.0).start()
        sender.offer(*batches(0))

        assert sender.settled()

    assert len(cloud.hellos) >= 3


def test_closing_ends_the_stream_in_order(edge):
    """The cloud sees the end of the messages, not a broken call."""
    ended = []

    def watching(messages, context):
        yield from serving()(messages, context)
        ended.append(context.is_active())

    with fake_cloud(watching) as cloud:
        sender = edge(cloud.address).start()
        sender.offer(*batches(0))
        assert sender.settled()
        sender.uplink.close()

    assert ended == [True]


def test_an_outage_of_days_is_waited_out():
    """Two to the power of the failures is more than a float holds after a thousand of them."""
    pauses = [pause_after(failures) for failures in (0, 1, 10, 5000)]

    assert 0.25 / 2 <= pauses[0] <= 0.5
    assert all(LAST_RETRY_S / 2 <= pause <= LAST_RETRY_S for pause in pauses[2:])
