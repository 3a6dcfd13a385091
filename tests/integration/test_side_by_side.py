"""Many sessions on one cloud: each in its turn, none touched by the others."""

import json
import threading
from contextlib import contextmanager
from typing import NamedTuple

import grpc
import pytest
import torch
from safetensors.torch import load_file

from benchmarks.processes import finish, start_edge, wait_for
from cloud_worker.back import Back
from common.memory import freeze_objects, thaw_objects
from common.strategies import find_strategy
from common.wire.messages import Batch, End, Hello, Position
from edge_worker.run import Work
from tests.integration.alone import config_of, in_process, same
from tests.unit.cloud_worker.edges import cloud_in_process, refused, welcomed
from tests.unit.cloud_worker.fakes import CountingBack
from tests.unit.records import batches

MODELS = {"resnet18": "layer3", "resnet34": "layer3.2", "vgg11": "pool4", "vgg13_bn": "pool3"}
SETTINGS = "--dataset synthetic --train-limit 96 --test-limit 32 --batch-size 16 --epochs 1 --threads 1"
RUNS = {
    model: [*SETTINGS.split(), *f"--model {model} --split {cut} --precision float32 --workers 1".split()]
    for model, cut in MODELS.items()
}
CROWD = 64
PATIENCE_S = 60.0


def session_id(number):
    return f"{number:08d}-0000-4000-8000-000000000000"


class Alone(NamedTuple):
    """What a run sends, and what it comes to where nobody else trains."""

    hello: Hello
    sent: list[Batch]
    back: dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def alone():
    """Of each model; torch has one thread, here and in the tests."""
    threads = torch.get_num_threads()
    found = {}
    for number, (model, run) in enumerate(RUNS.items()):
        sent = []
        result = in_process(run, lambda batch, sent=sent: sent.append(batch) or batch)
        agreed = Work(config_of(run), find_strategy("hierarchical")).agreed_run()
        hello = Hello(session_id=session_id(number), generation=1, run=agreed, losses_from=0)
        found[model] = Alone(hello, sent, result.back)
    torch.set_num_threads(1)
    yield found
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def frozen_objects():
    """As in a serving process: a session that is opened has Python search for cycles."""
    freeze_objects()
    yield
    thaw_objects()


@pytest.fixture
def steps(monkeypatch):
    """Whose steps the cloud took, in order."""
    taken = []

    def watch(back_class):
        train = back_class.train

        def watched(back, *batch):
            taken.append(back)
            return train(back, *batch)

        monkeypatch.setattr(back_class, "train", watched)

    watch(Back)
    watch(CountingBack)
    return taken


@contextmanager
def all_waiting(cloud, count):
    """The turns stand still in this block; at its end so many sessions wait for theirs."""
    turns, stands, goes_on = cloud.sessions._turns, threading.Event(), threading.Event()

    def stand_still():
        stands.set()
        goes_on.wait(PATIENCE_S)

    standing = threading.Thread(target=turns.take, args=(stand_still,))
    standing.start()
    stands.wait(PATIENCE_S)
    try:
        yield
        wait_for(lambda: turns._thread._work_queue.qsize() == count, f"{count} sessions", PATIENCE_S)
    finally:
        goes_on.set()
        standing.join()


def test_four_models_side_by_side_on_one_cloud_each_end_with_the_bits_they_end_with_alone(
    clouds, tmp_path, alone
):
    """Dropout and batch norm of one do not touch the other."""
    cloud = clouds()
    edges = [start_edge(cloud.address, tmp_path / model, *run) for model, run in RUNS.items()]
    for edge in edges:
        finish(edge)

    for model in RUNS:
        session = json.loads((tmp_path / model / "run.json").read_text())["session_id"]
        back = load_file(cloud.session_dir(session) / "back.safetensors")
        assert same(back, alone[model].back), model


def test_four_models_take_turns_step_by_step(tmp_path, alone, steps):
    """What each sent alone is sent again: all wait for their first step, and none takes two meanwhile."""
    ends = {model: End(len(run.sent)) for model, run in alone.items()}
    with cloud_in_process(tmp_path) as cloud:
        with all_waiting(cloud, len(RUNS)):
            edges = {model: cloud.edge(run.hello) for model, run in alone.items()}
            for model, edge in edges.items():
                edge.reply()
                edge.send_records(*alone[model].sent, ends[model])
        for model, edge in edges.items():
            while edge.reply().durable < ends[model].after:
                pass

    assert len(set(steps[: len(RUNS)])) == len(RUNS)
    for model, run in alone.items():
        back = load_file(tmp_path / run.hello.session_id / "back.safetensors")
        assert same(back, run.back), model


def test_64_sessions_are_served_at_once_in_fair_turns_and_one_more_is_refused(tmp_path, monkeypatch, steps):
    """None takes its second step before each had its first, and each batch is applied once."""
    monkeypatch.setattr("cloud_worker.sessions.Back", CountingBack)
    with cloud_in_process(tmp_path, max_sessions=CROWD) as cloud:
        with all_waiting(cloud, CROWD):
            edges = [welcomed(cloud, session_id=session_id(number)) for number in range(CROWD)]
            for edge in edges:
                edge.send_records(*batches(0, 1, 2))
            with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "serves 64 sessions, which is its limit"):
                welcomed(cloud, session_id=session_id(CROWD))
        for edge in edges:
            edge.until(Position(3))

    assert len(set(steps[:CROWD])) == CROWD
    assert [[seq for seq, _ in back.learnt] for back in set(steps)] == [[0, 1, 2]] * CROWD
