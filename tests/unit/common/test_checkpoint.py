"""Saved states: whole or not at all."""

import json

import pytest
import torch
from safetensors.torch import load

from common.checkpoint import CheckpointStore, tensor_file
from common.durable import write_atomic
from common.errors import CheckpointError

TENSORS = {"a": torch.arange(6.0).view(2, 3), "empty": torch.empty(0, dtype=torch.float64)}


def test_what_is_saved_comes_back(tmp_path):
    store = CheckpointStore(tmp_path)
    store.save(7, TENSORS, {"applied": [7, 0], "text": "a\nb"})

    tensors, numbers = store.load(7)

    assert numbers == {"applied": [7, 0], "text": "a\nb"}
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)


def test_the_library_reads_what_is_written_as_it_was():
    """Every type, no value, one value, and weights as convolutions have them in memory."""
    types = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32]
    tensors = {str(dtype): torch.arange(7).to(dtype) for dtype in (torch.bool, torch.uint8, *types)}
    tensors |= {"empty": torch.empty(0, 3), "one": torch.tensor(5), "part": torch.arange(9.0)[::2]}
    tensors["last"] = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)

    data = b"".join(tensor_file(tensors, {"of": "a test"}))

    found = load(data)
    assert set(found) == set(tensors)
    for name, tensor in tensors.items():
        assert found[name].dtype is tensor.dtype
        assert torch.equal(found[name], tensor), name
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert header["__metadata__"] == {"of": "a test"}


def test_one_tensor_at_a_time_is_laid_out(monkeypatch):
    """All of them would take as much memory again as the network."""
    laid_out = []
    whole = torch.Tensor.contiguous
    monkeypatch.setattr(torch.Tensor, "contiguous", lambda self: laid_out.append(self) or whole(self))

    pieces = tensor_file({name: torch.ones(8) for name in "abc"})

    assert [(len(piece) > 0, len(laid_out)) for piece in pieces] == [(True, n) for n in range(4)]


@pytest.mark.parametrize("offset", [3, 40, 100, 150, -1])
def test_one_flipped_bit_is_noticed(tmp_path, offset):
    store = CheckpointStore(tmp_path)
    store.save(1, TENSORS, {})
    path = next(tmp_path.glob("*.ckpt"))
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)

    with pytest.raises(CheckpointError, match=r"000001\.ckpt is damaged"):
        store.load(1)


@pytest.mark.parametrize("length", [0, 10, 88, 120])
def test_a_file_cut_short_is_noticed(tmp_path, length):
    store = CheckpointStore(tmp_path)
    store.save(1, TENSORS, {})
    path = next(tmp_path.glob("*.ckpt"))
    path.write_bytes(path.read_bytes()[:length])

    with pytest.raises(CheckpointError, match="is damaged"):
        store.load(1)


def test_only_the_wanted_are_kept(tmp_path):
    store = CheckpointStore(tmp_path)
    for number in (1, 5, 9):
        store.save(number, TENSORS, {})

    store.keep_only({5, 9})

    assert store.numbers() == [5, 9]


def test_other_files_are_no_checkpoints_and_stay(tmp_path):
    store = CheckpointStore(tmp_path)
    store.save(5, TENSORS, {})
    others = [tmp_path / name for name in ("foo.ckpt", "7.ckpt", "-00000000001.ckpt", "notes", ".partial")]
    for path in others:
        path.touch()

    assert store.numbers() == [5]
    store.keep_only(set())
    assert sorted(tmp_path.iterdir()) == sorted(others)


def test_what_a_kill_left_half_written_goes_with_the_next_removal(tmp_path):
    """Each is as large as a checkpoint, and the next one has another number."""
    store = CheckpointStore(tmp_path)
    store.save(5, TENSORS, {})
    (tmp_path / "000000000004.ckpt.partial").write_bytes(b"half")

    store.keep_only({5})

    assert [path.name for path in tmp_path.iterdir()] == ["000000000005.ckpt"]


def test_a_file_that_cannot_be_removed_is_named(tmp_path):
    store = CheckpointStore(tmp_path)
    (tmp_path / "000000000004.ckpt").mkdir()

    with pytest.raises(CheckpointError, match=r"^cannot remove .*000000000004\.ckpt: [A-Z]"):
        store.keep_only({5})


def test_a_piece_that_is_not_to_be_had_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "state"
    write_atomic(target, b"old")

    with pytest.raises(KeyError, match="complex64"):
        write_atomic(target, tensor_file({"a": torch.ones(2), "b": torch.ones(2, dtype=torch.complex64)}))
    with pytest.raises(ZeroDivisionError):
        write_atomic(target, (b"new" * (1 // (1 - n)) for n in range(2)))

    assert [path.name for path in tmp_path.iterdir()] == ["state"]
    assert target.read_bytes() == b"old"


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    target = tmp_path / "state"
    write_atomic(target, b"old")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))

    with pytest.raises(CheckpointError, match=r"cannot write .*state: No space left on device; make room"):
        write_atomic(target, b"new")

    assert [path.name for path in tmp_path.iterdir()] == ["state"]
    assert target.read_bytes() == b"old"
