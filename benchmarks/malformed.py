"""What a peer may send that no edge does: a list written by hand, and as much drawn damage as is wanted.

A case is what goes to the server after a Hello that it accepts, or instead of one, and the statuses with
which it may answer. Those written by hand have one each. Damage may happen to be harmless, so that a drawn
case may also end well; never may it end as the server's own fault.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import grpc
import zstandard

from benchmarks.mutate import damage_bytes, damage_field
from benchmarks.peer import LABELS, Peer, chunk, chunks, note, requests
from common.codec import packed_bytes
from common.wire.convert import record_to_bytes
from common.wire.generated import training_pb2 as pb
from common.wire.messages import MAX_CHUNK_BYTES, End, EvaluationPart, Skip

Code = grpc.StatusCode
# With which a server says that the peer is at fault, or that the end was a good one.
ALLOWED = frozenset(
    {
        Code.OK,
        Code.INVALID_ARGUMENT,
        Code.FAILED_PRECONDITION,
        Code.OUT_OF_RANGE,
        Code.PERMISSION_DENIED,
        Code.RESOURCE_EXHAUSTED,
        Code.NOT_FOUND,
        Code.ABORTED,
        Code.UNIMPLEMENTED,
    }
)
STRANGER = "eeeeeeee-eeee-4eee-8eee-eeeeeeeeeeee"  # a session that no cloud has
GARBAGE = b"\xff" * 40
BOMB_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to send.

    Attributes:
        name: of the damage.
        requests: messages as they stand on the wire.
        expected: statuses that are right.
        method: of the service; requests of others than Train are one message each.
        welcomed: whether a Hello that the server accepts goes before them.
    """

    name: str
    requests: tuple[bytes, ...]
    expected: frozenset[grpc.StatusCode] = ALLOWED
    method: str = "Train"
    welcomed: bool = True


def bad(
    name: str, *sends: bytes, status: grpc.StatusCode = Code.INVALID_ARGUMENT, welcomed: bool = True
) -> Case:
    """Return a case of Train with one right status."""
    return Case(name, sends, frozenset({status}), welcomed=welcomed)


# -------------------------------------------------------------------- by hand


def by_hand(peer: Peer, at: int) -> list[Case]:
    """Return every case of the list, against a session that stands at batch `at`, 1 or more."""
    return [
        *_streams(peer),
        *_hellos(peer),
        *_chunks(peer, at),
        *_activations(peer, at),
        *_unary(peer),
        *_records(peer, at),  # last: one of them moves the session on
    ]


def _streams(peer: Peer) -> list[Case]:
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
        bad("larger than a message may be", bytes(5 << 20), status=Code.RESOURCE_EXHAUSTED),
        Case("unknown method", (b"",), frozenset({Code.UNIMPLEMENTED}), "Steal", welcomed=False),
    ]


def _hellos(peer: Peer) -> list[Case]:
    ids = ["", "..", "../" * 9, "/etc/passwd", f"{peer.session_id}/..", f"{peer.session_id}\n"]
    ids += [peer.session_id.upper() + "A", "\x1b[2J", "x" * 100_000, "\u202e", "\x00" * 36]
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
        {"batch_size": 1 << 16, "activation_shape": (512, 64, 64)},
        {"input_shape": (3,) * 10_000},
        {"input_shape": (3, 1 << 31, 1 << 31)},
        {"total_batches": 2**64 - 1},
        {"precision": "float8"},
    ]
    others: list[dict[str, Any]] = [{"seed": 1}, {"structure_digest": "00"}, {"split": "layer3"}]
    return [
        bad("generation 0", peer.hello(generation=0), welcomed=False),
        bad("generation 2**64 - 1", peer.hello(generation=2**64 - 1), welcomed=False),
        *(bad(f"session id {text[:40]!a}", peer.hello(text), welcomed=False) for text in ids),
        *(bad(f"a run of {str(run)[:40]!a}", peer.hello(**run), welcomed=False) for run in runs),
        *(
            bad(f"another run: {run}", peer.hello(**run), status=Code.FAILED_PRECONDITION, welcomed=False)
            for run in others
        ),
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
    return cases + [Case(f"{method} of garbage", (GARBAGE,), ALLOWED - {Code.OK}, method) for method in makes]


def _records(peer: Peer, at: int) -> list[Case]:
    last, gap = peer.run.total_batches, Code.FAILED_PRECONDITION

    def part(number: int, num_parts: int) -> bytes:
        return requests(EvaluationPart(at, number, num_parts, peer.packed, LABELS))[0]

    return [
        bad("a record that is no protobuf", chunk(record_bytes=40, data=GARBAGE)),
        bad("a record without a kind", chunk(record_bytes=2, data=b"\x78\x01")),
        bad("half a record as a whole", chunk(record_bytes=100, data=peer.batch(at)[:100])),
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


# -------------------------------------------------------------------- drawn


def drawn(peer: Peer, at: int, rng: random.Random) -> Case:
    """Return damage to one of the messages that an edge at batch `at` could send."""
    draw = rng.choice(
        (_drawn_record, _drawn_record, _drawn_request, _drawn_hello, _drawn_order, _drawn_unary)
    )
    return draw(peer, at, rng)


def _drawn_record(peer: Peer, at: int, rng: random.Random) -> Case:
    records = (peer.batch(at), peer.batch(at), record_to_bytes(Skip(at)), record_to_bytes(End(at)))
    part = record_to_bytes(EvaluationPart(at, 0, 2, peer.packed, LABELS))
    record = rng.choice((*records, part))
    if rng.random() < 0.3:
        damaged = damage_bytes(rng, record)
    else:
        damaged = damage_field(rng, pb.Record.FromString(record)).SerializeToString()
    return Case("a damaged record", chunks(damaged) or (b"",))


def _drawn_request(peer: Peer, at: int, rng: random.Random) -> Case:
    whole = rng.choice((*chunks(peer.batch(at), 700), note(at), peer.hello()))
    return Case("a damaged request", (_damage_request(rng, whole),))


def _drawn_hello(peer: Peer, at: int, rng: random.Random) -> Case:
    return Case("a damaged Hello", (_damage_request(rng, peer.hello()),), welcomed=False)


def _drawn_order(peer: Peer, at: int, rng: random.Random) -> Case:
    pieces = [*chunks(peer.batch(at), 500), *requests(Skip(at + 1)), *chunks(peer.batch(at + 2), 900)]
    first, second = rng.randrange(len(pieces)), rng.randrange(len(pieces))
    change = rng.choice(("swap", "lose", "repeat"))
    if change == "swap":
        pieces[first], pieces[second] = pieces[second], pieces[first]
    elif change == "lose":
        del pieces[first]
    else:
        pieces.insert(second, pieces[first])
    return Case(f"chunks in disorder: {change}", tuple(pieces))


def _drawn_unary(peer: Peer, at: int, rng: random.Random) -> Case:
    whole = pb.StatusRequest(session_id=peer.session_id)
    damaged = rng.choice(
        (damage_field(rng, whole).SerializeToString(), damage_bytes(rng, whole.SerializeToString()))
    )
    return Case("a damaged question", (damaged,), method=rng.choice(("GetStatus", "ExportBack")))


def _damage_request(rng: random.Random, whole: bytes) -> bytes:
    if rng.random() < 0.3:
        return damage_bytes(rng, whole)
    request = damage_field(rng, pb.TrainRequest.FromString(whole))
    # A newer generation is no damage: it would end the session that all other cases need.
    if request.hello.generation > 1:
        request.hello.generation = 1
    return request.SerializeToString()
