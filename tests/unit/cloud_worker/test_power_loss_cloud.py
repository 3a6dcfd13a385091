"""Power loss at any write of the cloud: it comes back with all that it has called durable."""

import torch

from cloud_worker.store import SessionFiles
from common.codec import decode
from common.wire.messages import End, Position
from common.wire.records import gradient_from_bytes
from tests.unit.cloud_worker.fakes import (
    SPLIT,
    CountingBack,
    FakeStream,
    SlopedBack,
    apply,
    attached,
    durable,
    open_session,
)
from tests.unit.disk import MODES, Disk, RecordingOs
from tests.unit.records import RUN, SESSION, batches, hello, part


def test_a_power_cut_at_any_write_leaves_what_was_called_durable(tmp_path, monkeypatch):
    """Position and weights are of one moment, and an older generation stays refused."""
    disk = Disk(tmp_path / "run")
    disk.folder.mkdir()
    promises = [(0, Position(0), 0)]
    with monkeypatch.context() as patched:
        RecordingOs(disk).patch(patched)
        session = open_session(disk.folder)
        stream = attached(session, generation=1)
        for record in (*batches(0, 1, 2), part(0), part(1), *batches(3, 4, 5), End(6)):
            apply(session, stream, record)
            promises.append((len(disk.ops), durable(session), 1))
        attached(session, generation=2)
        promises.append((len(disk.ops), durable(session), 2))
    (tmp_path / "after").mkdir()
    seen = set()

    for count, mode, folder in disk.states(tmp_path / "after"):
        promised = max(position for done, position, _ in promises if done <= count)
        generation = max(generation for done, _, generation in promises if done <= count)
        if not (folder / SESSION / "session.json").exists():
            assert promised == Position(0)
            continue
        back = CountingBack()
        again = open_session(folder, back)
        found = again.status().applied
        assert found >= promised, f"{mode} after {disk.ops[count - 1][:2]}"
        learnt = min(found.batches, RUN.total_batches)
        assert found == Position(0) or back.restored == [learnt * (learnt - 1) / 2, learnt]
        assert SessionFiles(folder, SESSION).read()[1] >= generation
        again.attach(hello(2, kept_from=promised), FakeStream())
        # Nothing comes after End, at which all would be saved twice.
        assert durable(again) == found or found < Position(7)
        seen.add((found, mode))

    wanted = (Position(0), Position(3), Position(3, 2), Position(6), Position(7))
    assert seen == {(position, mode) for position in wanted for mode in MODES}


def test_a_power_cut_at_any_write_leaves_the_gradients_that_the_edge_may_need(tmp_path, monkeypatch):
    """Those of all batches that are applied, but for what the edge said to have done with."""
    disk = Disk(tmp_path / "run")
    disk.folder.mkdir()
    needed_from = [(0, 0)]
    with monkeypatch.context() as patched:
        RecordingOs(disk).patch(patched)
        session = open_session(disk.folder, SlopedBack(), run=SPLIT)
        stream = attached(session)
        for done, record in enumerate(batches(0, 1, 2, 3, 4, 5), start=1):
            apply(session, stream, record)
            if done % 2 == 0:
                # From the first of these writes on the edge may not ask for less.
                needed_from.append((len(disk.ops), max(0, done - 3)))
                session.note(losses_from=max(0, done - 3), save=True, stream=stream)
    (tmp_path / "after").mkdir()
    seen = set()

    for count, mode, folder in disk.states(tmp_path / "after"):
        if not (folder / SESSION / "session.json").exists():
            continue
        again = open_session(folder, SlopedBack(), run=SPLIT)
        applied = again.status().applied.batches
        for seq in range(max(first for done, first in needed_from if done <= count), applied):
            gradient = gradient_from_bytes(again.gradient(seq), SPLIT)
            assert gradient.seq == seq
            assert decode(gradient.content, torch.device("cpu")).unique().tolist() == [seq + 1.0]
        seen.add((applied, mode))

    assert {applied for applied, _ in seen} == {0, 2, 3, 4, 6}
