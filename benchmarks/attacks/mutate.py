"""Small damage to messages: to one field of a protobuf, or to any bytes. Seeded, so that it repeats."""

import random
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor as Field
from google.protobuf.message import Message

MessageT = TypeVar("MessageT", bound=Message)

# Where ranges end: of counts, of JSON's numbers, of the wire's integers.
INTEGERS = (0, 1, 2, 3, 4, 7, 255, 65_537, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**53 + 1, 2**63, 2**64 - 1)
FLOATS = (0.0, -0.0, -1.0, 1.0, 1e-320, 1e30, 3.4e38, 1e308, float("inf"), float("-inf"), float("nan"))
TEXTS = (
    "",
    "..",
    "/etc/passwd",
    "a/../../b",
    "resnet50",
    "layer3",
    "\x1b[2J\x1b]0;title\x07",
    "two\nlines\r\n",
    "\u202egnp.exe",
    "\x00",
    "größer",
    "x" * 70_000,
    "ffffffff-ffff-4fff-8fff-ffffffffffff",
    "FFFFFFFF-FFFF-4FFF-8FFF-FFFFFFFFFFFF",
    "nan",
)
FLOOD = 20_000


def damage_field(rng: random.Random, message: MessageT) -> MessageT:
    """Return a copy of `message` in which one field, at any depth, says something else."""
    copy = type(message)()
    copy.CopyFrom(message)
    holder, field = rng.choice(list(_fields(copy)))
    value = getattr(holder, field.name)
    if hasattr(value, "append") or hasattr(value, "add"):
        _damage_list(rng, value, field)
    elif field.message_type is not None or rng.random() < 0.1:
        holder.ClearField(field.name)
    else:
        setattr(holder, field.name, _other(rng, field, value))
    return copy


def _fields(message: Message) -> Iterator[tuple[Any, Any]]:
    """Yield every field of `message` and of the messages in it that are set."""
    for field in message.DESCRIPTOR.fields:
        yield message, field
    for field, value in message.ListFields():
        if field.message_type is not None and isinstance(value, Message):
            yield from _fields(value)


def _damage_list(rng: random.Random, values: Any, field: Field) -> None:
    kept = list(values)
    if field.message_type is not None:
        del values[:]
        return
    change = rng.choice(("none", "one less", "one more", "flood", "other"))
    if change == "none":
        kept = []
    elif change == "one less":
        kept = kept[:-1]
    elif change == "one more":
        kept.append(_other(rng, field, 0))
    elif change == "flood":
        kept = (kept or [1]) * FLOOD
    elif kept:
        kept[rng.randrange(len(kept))] = _other(rng, field, 0)
    del values[:]
    values.extend(kept[:FLOOD])


def _other(rng: random.Random, field: Field, value: Any) -> Any:
    """Return another value that the field's type can have."""
    if field.type == Field.TYPE_BYTES:
        return damage_bytes(rng, value)
    kinds: dict[int, Callable[[], Any]] = {
        Field.CPPTYPE_UINT32: lambda: rng.choice(INTEGERS) % 2**32,
        Field.CPPTYPE_UINT64: lambda: rng.choice(INTEGERS),
        Field.CPPTYPE_ENUM: lambda: rng.choice((-1, 0, 1, 2, 3, 77, 2**31 - 1)),
        Field.CPPTYPE_BOOL: lambda: not value,
        Field.CPPTYPE_FLOAT: lambda: rng.choice(FLOATS),
        Field.CPPTYPE_DOUBLE: lambda: rng.choice(FLOATS),
        Field.CPPTYPE_STRING: lambda: rng.choice(TEXTS),
    }
    return kinds[field.cpp_type]()


def damage_bytes(rng: random.Random, data: bytes) -> bytes:
    """Return `data` with some of it flipped, lost, repeated, moved or made up."""
    if not data:
        return rng.randbytes(rng.randint(1, 64))
    start = rng.randrange(len(data))
    end = min(len(data), start + rng.choice((1, 2, 8, 64)))
    change = rng.choice(("flip", "cut", "lose", "repeat", "insert", "replace", "join"))
    if change == "flip":
        flipped = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 8))):
            flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        return bytes(flipped)
    if change == "cut":
        return data[:start]
    if change == "join":
        return data + data[start:]
    middle = {
        "lose": b"",
        "repeat": data[start:end] * rng.choice((2, 100)),
        "insert": rng.randbytes(end - start) + data[start:end],
        "replace": rng.choice((b"\x00", b"\xff", b"\x80")) * (end - start),
    }[change]
    return data[:start] + middle + data[end:]
