"""Drawn damage to what an edge says: as much of it as is wanted. Seeded, so that it repeats.

Damage may happen to be harmless, so that a drawn case may also end well; never may it end as the server's
own fault.
"""

import random

from google.protobuf.message import DecodeError

from benchmarks.attacks.malformed import Case
from benchmarks.attacks.mutate import damage_bytes, damage_field
from benchmarks.attacks.peer import LABELS, Peer, chunks, note, requests
from common.wire.generated import training_pb2 as pb
from common.wire.messages import End, EvaluationPart, Skip
from common.wire.records import record_to_bytes


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
        damaged = damage_bytes(rng, whole)
    else:
        damaged = damage_field(rng, pb.TrainRequest.FromString(whole)).SerializeToString()
    try:
        request = pb.TrainRequest.FromString(damaged)
    except DecodeError:
        return damaged
    if request.hello.generation <= 1:
        return damaged
    # A newer generation is no damage: it would end the session that all other cases need.
    request.hello.generation = 1
    return request.SerializeToString()
