"""Files cut short or with a flipped bit: named in one line, then resumed from the good one, or refused."""

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from benchmarks.outcome import outcome
from benchmarks.processes import run_edge, start_cloud, start_edge, wait_for
from tests.integration.conftest import SMALL_RUN, outcome_untouched

# Frequent saves leave two checkpoints on either side.
RUN = [*SMALL_RUN, "--epochs", "4", "--eval-every", "1", "--checkpoint-every", "1s"]
SPOOL = "spool.sqlite"
FLIPPED, CUT = "one flipped bit", "cut short"


class Sides(NamedTuple):
    """The run directories of a pair that was killed."""

    edge: Path
    cloud: Path

    @property
    def session(self):
        """The one session's directory at the cloud."""
        return self.cloud / json.loads((self.edge / "run.json").read_text())["session_id"]


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    return outcome_untouched(tmp_path_factory.mktemp("untouched"), *RUN)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A pair killed in the midst: each has two checkpoints, and the edge no longer has the first records.

    The slow link keeps later ones there, and the small spool keeps the edge from running ahead of it.
    """
    base = tmp_path_factory.mktemp("killed")
    sides = Sides(base / "edge", base / "cloud")
    cloud = start_cloud(sides.cloud, "--checkpoint-every", "1s")
    edge = start_edge(cloud.address, sides.edge, *RUN, "--link-rate", "1mbit", "--spool", "512KiB")
    try:
        wait_for(lambda: (sides.edge / "run.json").exists(), "the edge's start")
        wait_for(lambda: len(checkpoints(sides.edge)) == len(checkpoints(sides.session)) == 2, "checkpoints")
        wait_for(lambda: first_kept(sides.edge) > 0, "the edge to let go of what the cloud has durably")
        assert not (sides.session / "back.safetensors").exists()
    finally:
        edge.kill()
        edge.communicate()
        cloud.kill()
    return sides


@pytest.fixture
def sides(killed, tmp_path):
    """A copy of the killed pair, to be damaged."""
    for name in ("edge", "cloud"):
        shutil.copytree(getattr(killed, name), tmp_path / name)
    return Sides(tmp_path / "edge", tmp_path / "cloud")


def checkpoints(directory):
    """The checkpoints of one side, oldest first."""
    return sorted(directory.rglob("*.ckpt"), key=lambda path: int(path.stem))


def first_kept(directory):
    """Up to where the edge's spool has let go of records."""
    with closing(sqlite3.connect(directory / SPOOL)) as spool:
        ((start,),) = spool.execute("SELECT DISTINCT start FROM state")
    return start


def damage(path, how):
    data = bytearray(path.read_bytes())
    if how == CUT:
        data = data[: len(data) // 2]
    else:
        data[len(data) // 2] ^= 16
    path.write_bytes(data)


def flip_in_records(path):
    """Flip a bit of each batch: other places may be unused, as may batches that the cloud has by now."""
    with closing(sqlite3.connect(path)) as spool:
        batches = spool.execute("SELECT data FROM records WHERE length(data) > 1000").fetchall()
    whole = bytearray(path.read_bytes())
    for (data,) in batches:
        whole[whole.index(data[100:164])] ^= 16  # so near to its beginning it lies in one piece
    path.write_bytes(whole)


def contents(directory):
    return {path: path.read_bytes() for path in directory.rglob("*") if path.suffix in (".ckpt", ".jsonl")}


def resume(cloud, sides):
    """Start the edge again at this cloud; its result, and what the cloud logged."""
    done = run_edge(cloud.address, sides.edge, "--link-rate", "1gbit", timeout_s=250)
    return done, cloud.log.read_text()


@pytest.mark.parametrize("how", [{"edge": FLIPPED, "cloud": CUT}, {"edge": CUT, "cloud": FLIPPED}])
def test_damaged_checkpoints_are_named_and_those_before_are_used(clouds, sides, untouched, how):
    newest = {side: checkpoints(getattr(sides, side))[-1] for side in how}
    for side, path in newest.items():
        damage(path, how[side])

    done, cloud_log = resume(clouds(), sides)

    assert done.returncode == 0, done.stderr
    for side, said in (("edge", done.stderr), ("cloud", cloud_log)):
        (named,) = [line for line in said.splitlines() if str(newest[side]) in line]
        assert named.endswith("is damaged: its checksum does not match its content; it is passed over")
    assert outcome(sides.cloud, sides.edge) == untouched


@pytest.mark.parametrize("shared", [False, True])
def test_where_no_checkpoint_of_the_cloud_is_good_both_sides_end_with_both_numbers(clouds, sides, shared):
    for each in checkpoints(sides.session):
        damage(each, FLIPPED)
    if shared:  # another edge's session, under way
        shutil.copytree(sides.session, sides.session.with_name("0" * 8 + sides.session.name[8:]))
    before = contents(sides.edge)
    cloud = clouds()

    done, _ = resume(cloud, sides)

    assert done.returncode == 1
    line = done.stderr.strip().splitlines()[-1]
    assert "the cloud has this session up to batch 0, the edge keeps its records from batch" in line
    assert contents(sides.edge).keys() >= before.keys()
    # A cloud that has others to serve must not be ended by one edge.
    assert (cloud.stop() if shared else cloud.process.wait(60)) == (0 if shared else 1)
    both = line.removeprefix("Error: the cloud refused: ")
    last = cloud.log.read_text().strip().splitlines()[-1]
    assert both in cloud.log.read_text()
    assert (last == f"Error: {both}") is not shared


def test_an_edge_without_a_good_checkpoint_is_refused(clouds, sides):
    for each in checkpoints(sides.edge):
        damage(each, FLIPPED)

    done, _ = resume(clouds(), sides)

    assert done.returncode == 1
    assert "are damaged; start a new run" in done.stderr.strip().splitlines()[-1]
    assert not (sides.edge / "front.safetensors").exists()


@pytest.mark.parametrize("how", [FLIPPED, CUT])
@pytest.mark.parametrize("suffix", ["", "-wal"], ids=["database", "log"])
def test_a_damaged_spool_is_named_and_never_trained_on(clouds, sides, untouched, suffix, how):
    """What it lacks is computed again, from a checkpoint that the cloud can follow; or there is none."""
    if not suffix:
        with closing(sqlite3.connect(sides.edge / SPOOL)) as spool:
            spool.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    if how == FLIPPED and not suffix:
        flip_in_records(sides.edge / SPOOL)
    else:
        damage(sides.edge / (SPOOL + suffix), how)

    done, _ = resume(clouds(), sides)

    named = any(SPOOL in line or "spool lacks" in line for line in done.stderr.splitlines())
    # A cloud that has all of the batches needs none of them, and nothing is read that could be named.
    assert named or how == FLIPPED
    if done.returncode:
        assert "only; start a new run" in done.stderr.strip().splitlines()[-1]
    else:
        assert outcome(sides.cloud, sides.edge) == untouched


@pytest.mark.parametrize("how", [CUT, FLIPPED])
@pytest.mark.parametrize("name", ["run.json", "session.json"])
def test_damage_to_what_names_the_run_is_refused(clouds, sides, name, how):
    path = {"run.json": sides.edge / name, "session.json": sides.session / name}[name]
    damage(path, how)

    done, _ = resume(clouds(), sides)

    assert done.returncode == 1
    assert f"{path} is damaged" in done.stderr.strip().splitlines()[-1]
