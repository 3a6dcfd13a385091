"""Saved states: one file each, written whole or not at all, checked when read, the last two kept.

A checkpoint is a line that says so, a safetensors file whose metadata holds the numbers, and the SHA-256 of
both. It appears under its name only after its bytes are on the disk.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from common.durable import PARTIAL, Piece, make_directory, write_atomic
from common.errors import CheckpointError

_MAGIC = b"headwater-checkpoint-2\n"
_DIGEST_BYTES = 64
_SUFFIX = ".ckpt"
_DIGITS = re.compile(r"[0-9]+")
# As safetensors names them.
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def tensor_file(tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> Iterator[Piece]:
    """Yield a safetensors file of `tensors`, independent of device and memory format, in pieces.

    The library's `save` wants all tensors laid out for the file, and makes the file beside them. Here they
    are laid out one after the other.

    Raises:
        KeyError: a tensor is of a type that no network here has.
    """
    # In this order each one lies where a value of its type may.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    end = 0
    for name in names:
        start, end = end, end + tensors[name].nbytes
        dtype, shape = _DTYPES[tensors[name].dtype], list(tensors[name].shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in names:
        # Not kept in a variable while the next one is laid out.
        yield tensors[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data


class CheckpointStore:
    """The checkpoints of one half of one run, numbered by the user of the store, in one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def save(self, number: int, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Write checkpoint `number`; `numbers` is whatever JSON can hold."""
        make_directory(self._directory)
        content = chain([_MAGIC], tensor_file(tensors, {"numbers": json.dumps(numbers)}))
        write_atomic(self._path(number), _with_digest(content))

    def load(self, number: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the tensors and numbers of one checkpoint.

        Raises:
            CheckpointError: it is missing, cut short or changed.
        """
        path = self._path(number)
        with _as_checkpoint_error(f"cannot read {path}"):
            data = path.read_bytes()
        content, digest = memoryview(data)[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
        if not data.startswith(_MAGIC) or digest != hashlib.sha256(content).hexdigest().encode():
            raise CheckpointError(f"{path} is damaged: its checksum does not match its content")
        payload = bytes(content[len(_MAGIC) :])
        try:
            tensors: dict[str, Tensor] = load(payload)
            return tensors, _numbers_in(payload[8 : 8 + int.from_bytes(payload[:8], "little")])
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path} is damaged: {error}") from error

    def peek(self, number: int) -> dict[str, Any]:
        """Return the numbers of one checkpoint, however large it is, without a look at its tensors.

        Raises:
            CheckpointError: it is missing, or so damaged that they cannot be read.
        """
        path = self._path(number)
        try:
            with _as_checkpoint_error(f"cannot read {path}"), path.open("rb") as file:
                file.seek(len(_MAGIC))
                size = int.from_bytes(file.read(8), "little")
                return _numbers_in(file.read(min(size, path.stat().st_size)))
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path} is damaged: {error}") from error

    def numbers(self) -> list[int]:
        """Return the numbers of the checkpoints there are, oldest first; other files are not looked at."""
        named = [path for path in self._directory.glob(f"*{_SUFFIX}") if _DIGITS.fullmatch(path.stem)]
        return sorted(number for path in named if self._path(number := int(path.stem)) == path)

    def keep_only(self, numbers: set[int]) -> None:
        """Remove every checkpoint but those numbered so, and what kills have left half-written.

        Raises:
            CheckpointError: the disk does not let go of a file.
        """
        paths = [self._path(number) for number in self.numbers() if number not in numbers]
        for path in (*paths, *self._directory.glob(f"*{_SUFFIX}{PARTIAL}")):
            with _as_checkpoint_error(f"cannot remove {path}"):
                path.unlink(missing_ok=True)

    def _path(self, number: int) -> Path:
        return self._directory / f"{number:012d}{_SUFFIX}"


def _with_digest(content: Iterable[Piece]) -> Iterator[Piece]:
    digest = hashlib.sha256()
    for piece in content:
        digest.update(piece)
        yield piece
    yield digest.hexdigest().encode()


def _numbers_in(header: bytes) -> dict[str, Any]:
    numbers: dict[str, Any] = json.loads(json.loads(header)["__metadata__"]["numbers"])
    return numbers


@contextmanager
def _as_checkpoint_error(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{what}: {error.strerror}") from error


def state_digest(tensors: dict[str, Tensor]) -> str:
    """Return the SHA-256 of names and exact bytes, to tell whether two states are the same bits."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
