"""Which cells a comparison trains, and what it says of them; nothing is trained here."""

import json

import pytest

from common.units import parse_rate
from edge_worker import compare
from edge_worker.config import AUTO_BITS, TrainConfig
from edge_worker.planner import Link
from edge_worker.profile_file import Measured
from tests.unit.edge_worker.test_planner import COSTS


@pytest.fixture
def asked(monkeypatch):
    """The run directories that were to be trained in; each training is stopped by a signal of its own."""
    link = Link(up_bps=1e6, down_bps=1e6)
    measured = Measured(settings={}, edge="a Pi", cloud="a server", link=link, costs=COSTS)
    monkeypatch.setattr(compare, "measured_in", lambda path, config, strategies: measured)
    found = []

    def apart(function, config, on_stop):
        found.append(config.run_dir.name)
        return False

    monkeypatch.setattr(compare, "apart", apart)
    return found


def comparison(out, *rates, bits=4):
    return compare.Comparison(
        config=TrainConfig(dataset="synthetic", model="resnet18", split="layer3", bits=bits),
        strategies=["hierarchical"],
        images=["resend"],
        rates=[parse_rate(rate) for rate in rates],
        out=out,
    )


def test_a_preset_is_another_link_than_its_rate_alone(tmp_path, asked):
    """The preset goes up at 20mbit, too, but has a latency and another rate down."""
    ended = compare.compare(comparison(tmp_path, "wifi", "20mbit"))

    assert asked == ["wifi-hierarchical", "20mbit-hierarchical"]
    assert [cell["link"] for cell in ended.report["cells"]] == ["wifi", "20mbit"]


def test_a_training_that_somebody_stopped_is_no_success(tmp_path, asked):
    """Only its own process had the signal, as where the memory runs out."""
    ended = compare.compare(comparison(tmp_path, "1mbit"))

    assert (ended.failed, ended.signal) == (1, 0)
    assert "stopped by a signal; the same command goes on" in ended.report["cells"][0]["error"]


def test_an_open_width_is_called_as_its_flag_calls_it(tmp_path, asked):
    compare.compare(comparison(tmp_path, "1mbit", bits=AUTO_BITS))

    assert json.loads((tmp_path / "compare.json").read_text())["bits"] == "auto"
