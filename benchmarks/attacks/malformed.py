"""What a peer may send that no edge does: the list written by hand.

A case is what goes to the server after a Hello that it accepts, or instead of one, and the status with which
it must answer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import grpc
import zstandard

from benchmarks.attacks.peer import LABELS, Peer, chunk, chunks, note, requests, sent
from common.codec import packed_bytes
from common.wire.generated import training_pb2 as pb
from common.wire.messages import MAX_CHUNK_BYTES, End, EvaluationPart, Position, Skip

Code = grpc.StatusCode
# With which a server says that the peer is at fault, or that the end was a good one: right for drawn damage.
ALLOWED = frozenset(
    {
        Code.OK,
        Code.INVALID_ARGUMENT,
        Code.FAILED_PRECONDITION,
        Code.RESOURCE_EXHAUSTED,
        Code.NOT_FOUND,
        Code.ABORTED,
    }
)
STRANGER = "eeeeeeee-eeee-4eee-8eee-eeeeeeeeeeee"  # a session that no cloud has
GARBAGE = b"\xff" * 40
MiB = 1 << 20
BOMB_BYTES = 64 * MiB


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to send.

    Attributes:
        name: of the damage.
        requests: messages as they stand on the wire.
        expected: statuses that are right.
        method: of our service, or a path; requests of others than Train are one message each.
        welcomed: whether a Hello that the server accepts goes before them.
        authorization: what is shown for a token; None for the attacker's own.
        gzip: whether gRPC compresses the messages.
        stalls: whether the stream stays open after the last request.
        by_grpc: whether gRPC itself answers, so that our log has no line of it.
    """

    name: str
    requests: tuple[bytes, ...]
    expected: frozenset[grpc.StatusCode] = ALLOWED
    method: str = "Train"
    welcomed: bool = True
    authorization: tuple[str, ...] | None = None
    gzip: bool = False
    stalls: bool = False
    by_grpc: bool = False


def bad(name: str, *sends: bytes, status: grpc.StatusCode = Code.INVALID_ARGUMENT, **rest: Any) -> Case:
    """Return a case with one right status."""
    return Case(name, sends, frozenset({status}), **rest)


def by_hand(peer: Peer, at: int, honest: str) -> list[Case]:
    """Return every case of the list.

    Args:
        peer: whose session they go to.
        at: the batch at which that stands, 1 or more.
        honest: the session of somebody else.
    """
    return [
        *_streams(peer),
        *_callers(peer, honest),
        *_hellos(peer),
        *_chunks(peer, at),
        *_activations(peer, at),
        *_unary(peer),
        *_records(peer, at),  # last: one of them moves the session on
    ]


def _streams(peer: Peer) -> list[Case]:
    large: dict[str, Any] = {"status": Code.RESOURCE_EXHAUSTED, "by_grpc": True}
    return [
        bad("nothing at all", welcomed=False),
        bad("no protobuf", GARBAGE, welcomed=False),
        bad("no kind", b"", welcomed=False),
        bad("a chunk before Hello", chunk(record_bytes=3, data=b"abc"), welcomed=False),
        bad("a note before Hello", note(), welcomed=False),
        bad("half a Hello", peer.hello()[:100], welcomed=False),
        bad("Hello twice", peer.hello()),
        bad("no protobuf later", GARBAGE),
        bad("no kind later", b""),
        bad("larger than a message may be", bytes(5 * MiB), **large),
        bad("gzip bomb", bytes(BOMB_BYTES), gzip=True, welcomed=False, **large),
        bad("as large as a message may be", bytes(4 * MiB), welcomed=False),
        bad("unknown method", b"", status=Code.UNIMPLEMENTED, method="Steal", welcomed=False, by_grpc=True),
    ]


def _callers(peer: Peer, honest: str) -> list[Case]:
    """Strangers, and an edge that is known but meddles with the session of another."""
    shown = {
        "no token": (),
        "an unknown token": ("Bearer " + "x" * 32,),
        "no bearer": ("Basic " + "x" * 32,),
        "two tokens": (f"Bearer {peer.token}", f"Bearer {peer.token}"),
    }
    theirs, status = pb.StatusRequest(session_id=honest), Code.PERMISSION_DENIED
    question = theirs.SerializeToString()
    return [
        *(
            bad(name, peer.hello(), status=Code.UNAUTHENTICATED, authorization=shows, welcomed=False)
            for name, shows in shown.items()
        ),
        bad("Hello to another's session", peer.hello(honest), status=status, welcomed=False),
        bad("... of a later generation", peer.hello(honest, 1 << 50), status=status, welcomed=False),
        bad("GetStatus of another's session", question, status=status, method="GetStatus"),
        bad("ExportBack of another's session", question, status=status, method="ExportBack"),
    ]


def _hellos(peer: Peer) -> list[Case]:
    ids = ["", "..", "../" * 9, "/etc/passwd", f"{peer.session_id}/..", f"{peer.session_id}\n"]
    ids += [peer.session_id.upper() + "A", "\x1b[2J", "x" * 100_000, "\u202e", "\x00" * 36, "/" * 36]
    runs: list[dict[str, Any]] = [
        {"strategy": "full-edge"},
        {"model": "\x1b[2J\nresnet18"},
        {"model": "x" * (1 << 20)},
        {"split": ""},
        {"bits": 3},
        {"lr": float("nan")},
        {"lr": 1e300},
        {"momentum": float("inf")},
        {"weight_decay": -1.0},
        {"num_classes": 1 << 31},
        {"batch_size": 1 << 31},
        {"input_shape": (3,) * 10_000},
        {"input_shape": (3, 1 << 31, 1 << 31)},
        {"total_batches": 2**64 - 1},
        {"precision": "float8"},
    ]
    others: list[dict[str, Any]] = [{"seed": 1}, {"structure_digest": "00"}, {"split": "layer3"}]
    no_utf8 = peer.hello().replace(peer.session_id.encode(), b"\xff" * len(peer.session_id))
    disagrees: dict[str, Any] = {"status": Code.FAILED_PRECONDITION, "welcomed": False}
    return [
        bad("a session id that is no text", no_utf8, welcomed=False),
        bad("another protocol version", sent(peer.hello_of(protocol_version=77)), **disagrees),
        bad(
            "records kept from the future on",
            sent(peer.hello_of(kept_from=Position(peer.run.total_batches))),
            **disagrees,
        ),
        bad(
            "records kept from beyond the run on",
            sent(peer.hello_of(kept_from=Position(2**64 - 1))),
            welcomed=False,
        ),
        bad("losses from beyond the run on", peer.hello(losses_from=2**64 - 1), welcomed=False),
        bad(
            "a batch that takes gigabytes",
            peer.hello(batch_size=1 << 16, activation_shape=(512, 64, 64)),
            status=Code.RESOURCE_EXHAUSTED,
            welcomed=False,
        ),
        bad("generation 0", peer.hello(generation=0), welcomed=False),
        bad("generation 2**64 - 1", peer.hello(generation=2**64 - 1), welcomed=False),
        *(bad(f"session id {text[:40]!a}", peer.hello(text), welcomed=False) for text in ids),
        *(bad(f"a run of {str(run)[:40]!a}", peer.hello(**run), welcomed=False) for run in runs),
        *(bad(f"another run: {run}", peer.hello(**run), **disagrees) for run in others),
    ]


def _chunks(peer: Peer, at: int) -> list[Case]:
    one, two, *_ = chunks(peer.batch(at), 500)
    return [
        bad("a chunk of nothing", chunk(record_bytes=5)),
        bad("a chunk beyond its record", chunk(record_bytes=5, offset=3, data=b"abc")),
        bad("an offset that overflows", chunk(record_bytes=5, offset=2**64 - 1, data=b"a")),
        bad("a record of no bytes", chunk(data=b"a")),
        bad("a record without end", chunk(record_bytes=2**64 - 1, data=b"a")),
        bad("a chunk that is too long", chunk(record_bytes=2 << 20, data=bytes(MAX_CHUNK_BYTES + 1))),
        bad("the second chunk first", two, one),
        bad("a chunk twice", one, one),
        bad("a chunk of another record", one, chunk(record_bytes=700, offset=500, data=b"a")),
        Case("half a record", (one,), frozenset({Code.OK})),
    ]


def _activations(peer: Peer, at: int) -> list[Case]:
    def batch(name: str, labels: tuple[int, ...] = LABELS, **changes: Any) -> Case:
        return bad(name, *chunks(peer.batch(at, labels, **changes)))

    def ranged(field: str, value: float) -> Case:
        values = getattr(peer.packed, field).copy()
        values[1] = value
        return batch(f"a {field} of {value}", **{field: values})

    shape = peer.packed.shape
    odd = [float("nan"), float("inf"), float("-inf")]
    return [
        *(ranged(field, value) for field in ("low", "scale") for value in odd),
        ranged("scale", -1.0),
        batch("one range too few", low=peer.packed.low[1:]),
        batch("another shape", shape=(*shape[:3], shape[3] + 1)),
        batch("no image", (), shape=(0, *shape[1:])),
        batch("one image", (0,), shape=(1, *shape[1:])),
        batch("a width that was not agreed on", bits=32),
        batch("data cut short", data=peer.packed.data[:-1]),
        batch("data and more", data=peer.packed.data + b"more"),
        batch("data that is no zstd", data=bytes(99)),
        batch("too few labels", (0,)),
        batch("a label out of range", (*LABELS[1:], peer.run.num_classes)),
        batch("the largest label", (*LABELS[1:], 2**32 - 1)),
        *(
            batch(f"zip bomb, {name}", data=frame)
            for name, frame in bombs(packed_bytes(shape, peer.run.bits)).items()
        ),
    ]


@lru_cache
def bombs(stated: int) -> dict[str, bytes]:
    """Return frames of 64 MiB of zeros: one honest, one that states another size, one that states none."""
    zeros = bytes(BOMB_BYTES)
    honest = zstandard.ZstdCompressor(level=1).compress(zeros)
    # RFC 8878, 3.1.1.1: four bytes of content size follow magic, descriptor and, mostly, a window's byte.
    at = 5 if honest[4] & 0x20 else 6
    lying = honest[:at] + stated.to_bytes(4, "little") + honest[at + 4 :]
    silent = zstandard.ZstdCompressor(level=1, write_content_size=False).compress(zeros)
    return {"honest": honest, "lying": lying, "silent": silent}


def _unary(peer: Peer) -> list[Case]:
    asked = [
        ("..", Code.INVALID_ARGUMENT),
        ("/etc/passwd", Code.INVALID_ARGUMENT),
        (STRANGER, Code.NOT_FOUND),
    ]
    asked += [("\x1b[2J", Code.INVALID_ARGUMENT), ("x" * 1_000_000, Code.INVALID_ARGUMENT)]
    makes: dict[str, Callable[..., Any]] = {"ExportBack": pb.ExportRequest, "GetStatus": pb.StatusRequest}
    cases = [
        Case(
            f"{method} of {text[:40]!a}",
            (make(session_id=text).SerializeToString(),),
            frozenset({status}),
            method,
        )
        for method, make in makes.items()
        for text, status in asked
    ]
    unfinished = pb.ExportRequest(session_id=peer.session_id).SerializeToString()
    refused = frozenset({Code.FAILED_PRECONDITION})
    cases += [Case("ExportBack of what is under way", (unfinished,), refused, "ExportBack")]
    for size in (0, MiB + 1, 2**32 - 1):
        asks = pb.DownloadRequest(total_bytes=size).SerializeToString()
        cases.append(bad(f"Download of {size} bytes", asks, method="Download"))
    methods = [*makes, "Download"]
    return cases + [
        Case(f"{method} of garbage", (GARBAGE,), ALLOWED - {Code.OK}, method) for method in methods
    ]


def _records(peer: Peer, at: int) -> list[Case]:
    last, gap = peer.run.total_batches, Code.FAILED_PRECONDITION

    unknown = pb.Record.FromString(peer.batch(at))
    unknown.batch.activations.codec = 77  # type: ignore[assignment]  # no such one
    bare = pb.Record.FromString(peer.batch(at))
    bare.batch.activations.compression = pb.COMPRESSION_NONE

    def part(number: int, num_parts: int) -> bytes:
        return requests(EvaluationPart(at, number, num_parts, peer.packed, LABELS))[0]

    return [
        bad("a record that is no protobuf", chunk(record_bytes=40, data=GARBAGE)),
        bad("a record without a kind", chunk(record_bytes=2, data=b"\x78\x01")),
        bad("half a record as a whole", chunk(record_bytes=100, data=peer.batch(at)[:100])),
        bad("an unknown codec", *chunks(unknown.SerializeToString())),
        bad("an unknown compression", *chunks(bare.SerializeToString())),
        bad("a gap", *chunks(peer.batch(at + 1)), status=gap),
        bad("an end too early", *requests(End(last)), status=gap),
        bad("a batch beyond the run", *requests(Skip(last))),
        bad("another end", *requests(End(last + 1))),
        bad("an evaluation of no parts", part(0, 0)),
        bad("an evaluation part too many", part(3, 3)),
        bad("an evaluation that begins in its midst", part(5, 9), status=gap),
        Case("a batch again and again", 20 * requests(Skip(0)), frozenset({Code.OK})),
        bad("batches out of order", *requests(Skip(at)), *requests(Skip(at + 2)), status=gap),
    ]
