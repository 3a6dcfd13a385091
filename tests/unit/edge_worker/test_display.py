"""What the panel and the plain lines say of a run under way."""

import pytest

from edge_worker.config import TrainConfig
from edge_worker.counters import Counters
from edge_worker.display import Display
from edge_worker.loop import Plan
from edge_worker.outbox import Outbox
from tests.unit.records import batches


@pytest.fixture
def now(monkeypatch):
    """The time that the display sees."""
    clock = [1000.0]
    monkeypatch.setattr("edge_worker.display.time.monotonic", lambda: clock[0])
    return clock


@pytest.fixture
def show(tmp_path, now, capsys):
    """Make a display of ten batches in two epochs, with records that wait for the cloud, or none."""

    def make(waiting=True):
        outbox = Outbox(1 << 20)
        for record in batches(0, 1) if waiting else ():
            outbox.offer(record)
        counters = Counters(tmp_path / "counters.json", clock=lambda: 0.0)
        config = TrainConfig(epochs=2, batch_size=32)
        return Display(config, Plan(total_batches=10, batches_per_epoch=5), counters, outbox)

    return make


def rows(display):
    """Return what the panel shows, as a mapping."""
    names, values = (column.cells for column in display._panel().columns)
    return dict(zip(names, values, strict=True))


def trained(display, side, seq, loss=0.5):
    display.event({"kind": side, "seq": seq, "epoch": seq // 5 + 1, "loss": loss})


def test_before_the_first_batch_there_are_no_figures_yet(show, now):
    display = show(waiting=False)
    display.start(0, 0, {})
    now[0] += 1.0

    shown = rows(display)

    assert (shown["images/s"], shown["loss edge"], shown["left"]) == ("-", "-", "?")
    assert "nan" not in str(shown)


def test_after_a_resume_the_time_left_is_told_as_soon_as_both_sides_have_a_pace(show, now):
    """The edge goes on from batch 6, the cloud from 2: each has a pace of its own."""
    display = show()
    display.start(6, 0, {})
    now[0] += 1.0
    display.heard(2)
    trained(display, "edge", 6)
    assert rows(display)["left"] == "?"

    now[0] += 4.0
    display.heard(4)
    trained(display, "cloud", 3)

    assert rows(display)["left"] == "15s"  # the edge 5 s a batch for 3, the cloud 2 s a batch for 6


def test_after_a_resume_in_the_tail_the_cloud_s_pace_tells_the_time_left(show, now):
    """Only the cloud has batches left; the edge has no pace and no loss of this life."""
    display = show()
    display.start(10, 4, {"edge": 0.61, "cloud": 0.7})
    display.heard(4)
    now[0] += 4.0
    display.heard(6)

    shown = rows(display)

    assert (shown["left"], shown["images/s"], shown["loss edge"]) == ("8s", "-", "-")
    assert (shown["accuracy edge"], shown["accuracy cloud"]) == ("61.0%", "70.0%")


def test_the_end_of_the_run_is_no_batch(show, now):
    """The cloud counts it as one."""
    display = show()
    display.start(10, 9, {})
    display.heard(9)
    now[0] += 4.0
    display.heard(11)

    assert rows(display)["left"] == "0s"
