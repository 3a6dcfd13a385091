"""What `--split auto` and `--bits auto` come to, by a profile that is written here."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from common.errors import ConfigError
from common.units import parse_rate
from edge_worker import auto
from edge_worker.auto import SAME, check_same, settle_choice
from edge_worker.config import AUTO, AUTO_BITS, TrainConfig, in_json
from edge_worker.costs import FASTEST_BPS, Link
from edge_worker.planner import best_of, rank
from edge_worker.profile import machine_of
from edge_worker.profile_file import Measured, read_profile, write_profile
from tests.unit.edge_worker.test_planner import COSTS as PLANNED
from tests.unit.edge_worker.test_planner import LINK

COSTS = replace(PLANNED, spool_memory=TrainConfig().spool_memory)
OPEN = TrainConfig(split=AUTO, bits=AUTO_BITS, epochs=COSTS.epochs)


def measured(config=OPEN, splits=()):
    names = (*SAME, *auto.LINK, "data_dir")
    settings = {name: in_json(getattr(config, name)) for name in names} | {"splits": list(splits)}
    return Measured(settings=settings, edge="a Pi", cloud="a server", link=LINK, costs=COSTS)


@pytest.fixture
def path(tmp_path):
    write_profile(tmp_path / "measured.json", measured())
    return tmp_path / "measured.json"


def of(strategy, link=LINK):
    return best_of([each for each in rank(COSTS, link) if each.strategy == strategy])


@pytest.mark.parametrize("strategy", ["hierarchical", "split-learning"])
@pytest.mark.parametrize("rate", [None, 1e5, 1e9])
def test_the_fastest_choice_of_the_strategy_at_the_link_of_the_run_is_taken_and_kept(
    tmp_path, path, strategy, rate
):
    run_dir = tmp_path / "run"
    config = replace(OPEN, strategy=strategy, link_rate=rate, run_dir=run_dir)
    # As it is emulated: only the uplink, without a latency.
    link = LINK if rate is None else Link(up_bps=rate, down_bps=FASTEST_BPS)

    settled = settle_choice(config, path)

    wanted = of(strategy, link)
    assert settled == replace(config, split=wanted.split, bits=wanted.bits)
    kept = json.loads((run_dir / "plan.json").read_text())
    assert (kept["choice"], kept["link"]) == (asdict(wanted), asdict(link))


def test_what_the_user_says_stays(tmp_path, path):
    for name in {each.split for each in COSTS.splits}:
        assert settle_choice(replace(OPEN, split=name, run_dir=tmp_path / name), path).split == name
    for bits in (4, 8):
        assert settle_choice(replace(OPEN, bits=bits, run_dir=tmp_path / str(bits)), path).bits == bits
    plain = TrainConfig(run_dir=tmp_path / "plain")
    assert settle_choice(plain, None) is plain
    assert not plain.run_dir.exists()


def test_the_choice_fits_into_the_memory_that_is_given(tmp_path, path):
    sizes = sorted({each.memory_bytes for each in rank(COSTS, LINK) if each.strategy == "hierarchical"})
    assert len(sizes) > 1

    for size in sizes:
        settled = settle_choice(replace(OPEN, run_dir=tmp_path / str(size)), path, size)
        kept = json.loads((settled.run_dir / "plan.json").read_text())
        assert kept["choice"]["memory_bytes"] <= size
    with pytest.raises(ConfigError, match=r"^nothing fits into --edge-memory .*: the least is .*, of hier"):
        settle_choice(replace(OPEN, run_dir=tmp_path / "run"), path, sizes[0] - 1)
    with pytest.raises(ConfigError, match=r"^--edge-memory is for --split auto"):
        settle_choice(TrainConfig(run_dir=tmp_path / "run"), None, sizes[0])
    assert not (tmp_path / "run" / "plan.json").exists()


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        (replace(OPEN, strategy="full-edge"), "^--split auto needs a strategy that cuts the network"),
        (TrainConfig(bits=AUTO_BITS, strategy="full-cloud"), "^--bits auto needs a strategy that cuts"),
        (replace(OPEN, batch_size=7), r"was measured with --batch-size 128, got 7; measure again"),
        (replace(OPEN, split="layer9"), "has no --split layer9 with --bits auto; it has layer"),
        (replace(OPEN, bits=32), "has no --split auto with --bits 32; it has layer.* with .*4.* bits"),
        (TrainConfig(), "^--profile is for --split auto or --bits auto"),
    ],
)
def test_what_cannot_be_chosen_is_said_and_leaves_nothing(tmp_path, path, config, complaint):
    with pytest.raises(ConfigError, match=complaint):
        settle_choice(replace(config, run_dir=tmp_path / "run"), path)
    assert not (tmp_path / "run" / "plan.json").exists()


def test_a_profile_of_other_images_is_none_of_these(tmp_path):
    """They may be larger, or more, though the settings are the same."""
    small = replace(OPEN, dataset="imagefolder", data_dir=Path("small"))
    path = tmp_path / "measured.json"
    write_profile(path, measured(small))

    assert settle_choice(replace(small, run_dir=tmp_path / "same"), path).split != AUTO
    with pytest.raises(ConfigError, match="was measured with --data-dir small, got large"):
        settle_choice(replace(small, data_dir=Path("large"), run_dir=tmp_path / "run"), path)


def test_a_profile_of_other_strategies_has_no_choice(tmp_path):
    path = tmp_path / "measured.json"
    write_profile(path, replace(measured(), costs=replace(COSTS, splits=())))

    with pytest.raises(ConfigError, match="measure again with edge-worker profile --strategies hierarchical"):
        settle_choice(replace(OPEN, run_dir=tmp_path / "run"), path)


def test_a_profile_without_gradients_has_no_choice_for_those_who_need_them(tmp_path):
    path = tmp_path / "measured.json"
    splits = tuple(replace(each, chain=None) for each in COSTS.splits)
    write_profile(path, replace(measured(), costs=replace(COSTS, splits=splits)))

    assert settle_choice(replace(OPEN, run_dir=tmp_path / "exit"), path).split != AUTO
    config = replace(OPEN, strategy="split-learning", run_dir=tmp_path / "run")
    with pytest.raises(ConfigError, match="has no split point of split-learning: it was measured for other"):
        settle_choice(config, path)


@pytest.mark.parametrize("emulated", [{"link_rate": 4e6}, {"link_rate_down": 1e6}, {"link_latency": 0.2}])
def test_a_profile_of_an_emulated_link_is_none_of_a_link_that_is_not(tmp_path, emulated):
    path = tmp_path / "measured.json"
    write_profile(path, measured(replace(OPEN, **emulated)))
    flag = next(iter(emulated)).replace("_", "-")

    with pytest.raises(ConfigError, match=f"with an emulated link; give --{flag} here, too"):
        settle_choice(replace(OPEN, run_dir=tmp_path / "run"), path)
    settle_choice(replace(OPEN, link_rate=1e7, run_dir=tmp_path / "told"), path)


def test_a_profile_of_other_machines_is_taken_and_said(tmp_path, caplog):
    path = tmp_path / "measured.json"
    edge = f"{machine_of(OPEN)}, threads: 1 beside a cloud, 2 alone"
    write_profile(path, replace(measured(), edge=edge, address=OPEN.cloud))
    settle_choice(replace(OPEN, run_dir=tmp_path / "same"), path)
    assert "was measured" not in caplog.text

    write_profile(path, replace(measured(), address="far:1"))
    settle_choice(replace(OPEN, run_dir=tmp_path / "other"), path)

    assert f"was measured on a Pi, and not on {machine_of(OPEN)}; delete it and measure again" in caplog.text
    assert f"was measured with the cloud at far:1, and not with {OPEN.cloud}; delete it" in caplog.text


def test_without_a_profile_one_is_measured_once_and_anew_for_another_training(tmp_path, monkeypatch):
    asked = []

    def profile(config, splits, path, strategies):
        asked.append(splits)
        write_profile(path, measured(config, splits))
        return measured(config, splits)

    monkeypatch.setattr(auto, "profile", profile)
    config = replace(OPEN, run_dir=tmp_path / "run")

    first = settle_choice(config, None)
    assert settle_choice(config, None) == first
    assert asked == [[]]
    assert settle_choice(replace(config, split="layer1"), None).split == "layer1"
    assert asked == [[]]  # it is among all places, which are there
    settle_choice(replace(config, batch_size=64), None)
    assert asked == [[], []]


def test_a_profile_of_few_strategies_is_measured_anew_for_more_of_them_and_keeps_the_first(
    tmp_path, monkeypatch
):
    asked = []

    def profile(config, splits, path, strategies):
        asked.append(sorted(strategies))
        found = measured(config, splits)
        found.settings["strategies"] = sorted(strategies)
        write_profile(path, found)
        return found

    monkeypatch.setattr(auto, "profile", profile)
    path = tmp_path / "profile.json"

    for strategies in (["full-cloud"], ["full-cloud"], ["full-edge"], ["full-cloud"]):
        auto.measured_in(path, OPEN, strategies)

    assert asked == [["full-cloud"], ["full-cloud", "full-edge"]]


def test_a_split_point_is_measured_only_where_a_strategy_cuts(tmp_path, monkeypatch):
    """The one by default is a ResNet's, and other networks have none of that name."""
    asked = []
    monkeypatch.setattr(auto, "profile", lambda config, splits, path, strategies: asked.append(splits))
    config = replace(OPEN, split="layer2")

    auto.measured_in(tmp_path / "profile.json", config, ["full-cloud", "full-edge"])
    auto.measured_in(tmp_path / "profile.json", config, ["full-cloud", "split-learning"])

    assert asked == [[], ["layer2"]]


def test_the_places_that_a_profile_has_stay_as_they_are_where_nothing_is_cut(tmp_path, monkeypatch):
    asked = []

    def profile(config, splits, path, strategies):
        asked.append((splits, sorted(strategies)))
        found = measured(config, splits)
        found.settings["strategies"] = sorted(strategies)
        write_profile(path, found)
        return found

    monkeypatch.setattr(auto, "profile", profile)
    config, path = replace(OPEN, split="layer1"), tmp_path / "profile.json"

    for strategies in (["hierarchical", "full-cloud"], ["full-cloud"], ["full-edge"]):
        auto.measured_in(path, config, strategies)

    assert asked == [
        (["layer1"], ["full-cloud", "hierarchical"]),
        (["layer1"], ["full-cloud", "full-edge", "hierarchical"]),
    ]


@pytest.mark.parametrize("other", [{"split": AUTO}, {"split": "layer3"}, {"link_rate": 2e6}])
def test_a_profile_that_lacks_what_is_asked_for_is_measured_anew(tmp_path, monkeypatch, other):
    asked = []

    def profile(config, splits, path, strategies):
        asked.append(splits)
        write_profile(path, measured(config, splits))
        return measured(config, splits)

    monkeypatch.setattr(auto, "profile", profile)
    config = replace(OPEN, split="layer1", run_dir=tmp_path / "run")

    settle_choice(config, None)
    settle_choice(replace(config, bits=8), None)
    assert asked == [["layer1"]]
    settle_choice(replace(config, **other), None)
    assert len(asked) == 2


def test_a_preset_is_no_rate(tmp_path):
    """It may be as fast one way, but not the other way."""
    path = tmp_path / "profile.json"
    write_profile(path, measured(replace(OPEN, link_rate_down=parse_rate("3g"))))

    check_same(replace(OPEN, link_rate_down=parse_rate("3g")), read_profile(path), path, auto.LINK)
    with pytest.raises(ConfigError, match="measured with --link-rate-down 3g, got 1mbit"):
        check_same(replace(OPEN, link_rate_down=parse_rate("1mbit")), read_profile(path), path, auto.LINK)


def test_a_rate_with_its_unit_is_the_number_that_a_profile_has(tmp_path):
    """Else what was measured before a kill would be measured again."""
    config = replace(OPEN, link_rate=parse_rate("10mbit"))
    write_profile(tmp_path / "profile.json", measured(config))

    check_same(config, read_profile(tmp_path / "profile.json"), tmp_path, auto.LINK)
