"""Which cells a comparison trains, and what it says of them; nothing is trained here."""

import json
import shutil
from dataclasses import replace

import pytest

from common.errors import ConfigError
from common.units import parse_rate
from edge_worker import compare
from edge_worker.auto import SAME
from edge_worker.config import AUTO, AUTO_BITS, TrainConfig, in_json
from edge_worker.costs import Link
from edge_worker.profile_file import Measured, read_profile, write_profile
from edge_worker.rundir import Identity, RunDir
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


OPEN = replace(TrainConfig(dataset="synthetic", model="resnet18"), split=AUTO, bits=AUTO_BITS)


@pytest.fixture
def begin(tmp_path, asked, monkeypatch):
    """Begin a comparison with a profile that is named, and return its only cell; nothing is measured."""
    monkeypatch.setattr(compare, "measured_in", lambda *_: pytest.fail("it was measured again"))

    def begin(*, out="out", config=OPEN, named=True, rates=("1mbit",), has=COSTS, edge_memory=None):
        settings = {name: in_json(getattr(config, name)) for name in SAME}
        link = Link(up_bps=5e6, down_bps=5e6, latency_s=0.01)  # that of no cell which tells its own
        path = tmp_path / "measured.json"
        if not path.exists():
            measured = Measured(settings=settings, edge="a Pi", cloud="a server", link=link, costs=has)
            write_profile(path, measured)
        wanted = replace(comparison(tmp_path / out, *rates), config=config, edge_memory=edge_memory)
        return compare.compare(replace(wanted, profile=path if named else None)).report["cells"][0]

    return begin


def go_on(tmp_path, name):
    """As after a restart: the first directory is locked as long as this process is there."""
    (tmp_path / name).mkdir()
    for each in ("profile.json", "compare.json"):
        shutil.copy(tmp_path / "out" / each, tmp_path / name)


def test_a_profile_that_is_named_is_what_the_plan_reckons_with_and_a_copy_stays(tmp_path, begin):
    cell = begin()

    assert (cell["split"], cell["bits"]) == ("layer3", 4)
    assert cell["predicted_epoch_s"] > 0
    assert (tmp_path / "out" / "profile.json").read_bytes() == (tmp_path / "measured.json").read_bytes()


def test_a_link_as_it_is_has_what_is_told_of_it(begin):
    """A profile knows the rest."""
    at_once, late = (
        begin(out=out, config=replace(OPEN, link_latency=latency), rates=())["predicted_epoch_s"]
        for out, latency in (("at-once", 0.0), ("late", 0.5))
    )

    assert late - at_once == pytest.approx(2 * 0.5 / OPEN.epochs)


def test_a_choice_fits_into_the_edge_s_memory(begin):
    assert begin(edge_memory=150_000_000)["split"] == "layer1"
    error = begin(out="least", edge_memory=1)["error"]
    assert error.startswith("nothing fits into --edge-memory 1B")
    assert "delete" not in error  # there is nothing of it


@pytest.mark.parametrize(
    ("edge_memory", "complaint"),
    [
        (300_000_000, None),
        (299_999_999, "it takes 286.1MiB on the edge by the plan, more than --edge-memory"),
    ],
)
def test_what_is_not_cut_must_fit_into_the_edge_s_memory_too(tmp_path, asked, edge_memory, complaint):
    whole = replace(comparison(tmp_path), strategies=["full-edge"], config=OPEN, edge_memory=edge_memory)
    error = compare.compare(whole).report["cells"][0]["error"]

    assert (complaint or "stopped by a signal") in error
    assert asked == ([] if complaint else ["no-link-full-edge"])


def test_a_training_that_was_begun_goes_on_though_it_would_not_fit_by_a_later_profile(tmp_path, asked):
    whole = replace(comparison(tmp_path), strategies=["full-edge"], config=OPEN, edge_memory=1)
    (settings,) = [whole.settings_of(cell) for cell in whole.cells()]
    settings.run_dir.mkdir(parents=True)
    RunDir(settings.run_dir).begin(settings, Identity(session_id="a run", generation=1))

    compare.compare(whole)

    assert asked == ["no-link-full-edge"]


@pytest.mark.parametrize(
    ("config", "has", "complaint"),
    [
        (OPEN, replace(COSTS, splits=()), "has no split point of hierarchical"),
        (replace(OPEN, bits=32), COSTS, "has no --split auto with --bits 32"),
        (replace(OPEN, split="layer2"), COSTS, "has no --split layer2 with"),
    ],
)
def test_a_profile_that_lacks_what_is_asked_for_is_refused_at_once(tmp_path, begin, config, has, complaint):
    with pytest.raises(ConfigError, match=complaint):
        begin(config=config, has=has)
    assert not (tmp_path / "out" / "profile.json").exists()


def test_a_profile_that_lacks_a_strategy_is_refused(tmp_path, begin):
    begin()
    asked = replace(comparison(tmp_path / "more"), strategies=["full-edge"], config=OPEN)
    write_profile(
        tmp_path / "less.json",
        replace(read_profile(tmp_path / "measured.json"), costs=replace(COSTS, whole=None)),
    )

    with pytest.raises(ConfigError, match=r"has no full-edge; measure again .* --strategies full-edge$"):
        compare.compare(replace(asked, profile=tmp_path / "less.json"))


def test_a_comparison_goes_on_with_the_profile_that_it_was_begun_with(tmp_path, begin):
    begin()
    for out, named in (("again", True), ("without", False)):
        go_on(tmp_path, out)
        assert begin(out=out, named=named)["split"] == "layer3"

    go_on(tmp_path, "other")
    (tmp_path / "other" / "profile.json").write_text("another")
    with pytest.raises(ConfigError, match="was begun with another profile than"):
        begin(out="other")


def test_a_bound_of_memory_without_a_choice_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"^--edge-memory is for --split auto"):
        replace(comparison(tmp_path, "1mbit"), edge_memory=1)
