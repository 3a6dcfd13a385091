"""Which cells a comparison trains, and what it says of them; nothing is trained here."""

import json
import shutil
from dataclasses import replace

import pytest

from common.errors import ConfigError
from common.units import parse_rate
from edge_worker import compare
from edge_worker.config import AUTO_BITS, TrainConfig
from edge_worker.costs import Link
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


@pytest.mark.usefixtures("asked")
def test_a_downlink_by_its_preset_is_another_one_than_by_its_rate_up(tmp_path):
    first, again = (comparison(tmp_path / name, "2mbit") for name in ("first", "again"))
    compare.compare(replace(first, config=replace(first.config, link_rate_down=parse_rate("3g"))))
    again.out.mkdir()  # as after a restart: the first is locked as long as this process is there
    shutil.copy(first.out / "compare.json", again.out)

    with pytest.raises(ConfigError, match=r"^--link-rate-down is 3g in .*, got 1mbit"):
        compare.compare(replace(again, config=replace(again.config, link_rate_down=parse_rate("1mbit"))))


def test_a_training_that_somebody_stopped_is_no_success(tmp_path, asked):
    """Only its own process had the signal, as where the memory runs out."""
    ended = compare.compare(comparison(tmp_path, "1mbit"))

    assert (ended.failed, ended.signal) == (1, 0)
    assert "stopped by a signal; the same command goes on" in ended.report["cells"][0]["error"]


def test_an_open_width_is_called_as_its_flag_calls_it(tmp_path, asked):
    compare.compare(comparison(tmp_path, "1mbit", bits=AUTO_BITS))

    assert json.loads((tmp_path / "compare.json").read_text())["bits"] == "auto"
