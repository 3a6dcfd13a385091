"""The profile's file: what is written is read again, and what is none is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import ConfigError
from common.units import parse_rate
from edge_worker.costs import Link
from edge_worker.plan_table import show_plan
from edge_worker.planner import rank
from edge_worker.profile_file import Measured, check_folder, link_of, read_profile, write_profile
from tests.unit.edge_worker.test_planner import COSTS, LINK, measured

MEASURED = Measured(
    settings={"model": "resnet18", "dataset": "cifar10", "train_limit": None},
    edge="a Pi",
    cloud="a server",
    link=LINK,
    costs=COSTS,
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "profile.json"


def test_what_is_written_is_read_again(path):
    write_profile(path, MEASURED)

    found = read_profile(path)
    assert (found.costs, found.link, found.settings) == (COSTS, LINK, MEASURED.settings)
    assert found.made.endswith("+00:00")


def test_a_file_that_does_not_tell_of_rounds_is_of_one(path):
    write_profile(path, MEASURED)
    document = json.loads(path.read_text())
    del document["rounds"], document["apart"]
    path.write_text(json.dumps(document))

    assert read_profile(path).rounds == 1


def test_how_far_rounds_were_apart_is_said(capsys):
    show_plan(replace(MEASURED, rounds=3, apart=0.12), LINK, None, as_json=False)
    assert ", 3 rounds, apart by up to 12%\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda document: document.update(format=1), "another release; measure again with"),
        (lambda document: document.clear(), "cloud, costs, edge, link, settings is missing"),
        (lambda document: document.pop("costs"), "costs is missing"),
        (lambda document: document["costs"].update(more=1), "more is unknown"),
        (lambda document: document.update(link=3), "3 should be an object"),
        (lambda document: document["costs"].update(epochs="ten"), "'ten' should be int"),
        (lambda document: document["costs"].update(epochs=0), "epochs must be above 0"),
        (lambda document: document["link"].update(up_bps=0), "up_bps must be above 0"),
        (lambda document: document["costs"]["whole"].update(step_s=0), "step_s of the whole must be above 0"),
        (
            lambda document: document["costs"]["splits"][0].update(bits=2),
            "layer1 was measured at 2 bits, but has only",
        ),
        (lambda document: document["costs"]["whole"].update(step_s=-1.0), "-1.0 is no number from 0 on"),
        (lambda document: document["link"].update(up_bps=float("nan")), "nan is no number from 0 on"),
        (lambda document: document["costs"].update(splits=7), "not iterable"),
        (
            lambda document: document["costs"].update(splits=[], whole=None, images=None),
            "nothing was measured",
        ),
    ],
)
def test_what_is_no_profile_is_refused(path, change, complaint):
    write_profile(path, MEASURED)
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))

    with pytest.raises(ConfigError, match=complaint):
        read_profile(path)


def test_a_file_that_is_missing_or_no_json_is_refused(path):
    with pytest.raises(ConfigError, match=r"cannot be read: No such file.* edge-worker profile writes one"):
        read_profile(path)
    path.write_text("{")
    with pytest.raises(ConfigError, match="is no profile"):
        read_profile(path)
    path.write_text("[1, 2]")
    with pytest.raises(
        ConfigError, match=r"is no profile: .1, 2. should be an object; measure again with edge-worker"
    ):
        read_profile(path)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ((None, None, None), LINK),
        ((parse_rate("1mbit"), None, None), Link(up_bps=1e6, down_bps=1e6, latency_s=0.01)),
        ((None, parse_rate("1mbit"), None), Link(up_bps=4e6, down_bps=1e6, latency_s=0.01)),
        ((None, None, 0.5), Link(up_bps=4e6, down_bps=8e6, latency_s=0.5)),
        ((parse_rate("3g"), None, None), Link(up_bps=1e6, down_bps=4e6, latency_s=0.05)),
        ((parse_rate("3g"), None, 0.0), Link(up_bps=1e6, down_bps=4e6, latency_s=0.0)),
    ],
)
def test_another_link_takes_the_place_of_what_was_measured(given, wanted):
    assert link_of(LINK, *given) == wanted


def test_the_tables_fit_a_narrow_terminal_and_have_the_best_of_each_strategy(capsys):
    show_plan(MEASURED, LINK, None, as_json=False)

    said = capsys.readouterr().out
    assert "resnet18 on cifar10, 4mbit up, 8mbit down, 10ms: one of 5 epochs" in said
    tables = [line for line in said.splitlines() if line[:1] in "┃│"]
    assert all(len(line) <= 80 and "…" not in line for line in tables)
    for choice in ("split-learning", "--images once", "--images resend", "full-edge"):
        assert sum(choice in line for line in tables) >= 2, choice
    chained = [line for line in tables if "split-learning" in line]
    assert "2.384MiB" in chained[-1]  # of gradients, in ten batches
    assert "best: hierarchical layer1, 4 bits; the cloud is what takes time." in said
    assert "about time alone" in said
    marked = [line for line in tables if " * " in line]
    assert len(marked) == 2  # one in each table
    assert all("layer1, 4 bits" in line for line in marked)
    assert "With a link 2 times as fast, training would gain nothing." in said
    assert "Left out" not in said
    assert "from 10kbit: full-edge" in said
    assert "edge: a Pi; cloud: a server" in said


def test_json_has_all_of_it(capsys):
    show_plan(MEASURED, LINK, 100_000_000, as_json=True)

    found = json.loads(capsys.readouterr().out)
    assert found["plans"][0]["split"] == "layer1"
    assert found["plans"][0]["bottleneck"] == "cloud"
    assert found["verdict"].startswith("best: hierarchical")
    assert (found["rounds"], found["rounds_apart"]) == (1, 0.0)
    assert [each["times"] for each in found["faster_link"]] == [2, 10]
    assert all(each["memory_bytes"] <= 100_000_000 for each in found["plans"])
    assert all(each["memory_bytes"] > 100_000_000 for each in found["left_out"])
    assert len(found["plans"]) + len(found["left_out"]) == len(rank(COSTS, LINK))


@pytest.mark.parametrize(
    ("link", "edge_memory", "said"),
    [
        (LINK, 250_000_000, "Left out by --edge-memory 238.4MiB: 1, none of them faster.\n"),
        (
            replace(LINK, up_bps=1e4),
            250_000_000,
            "by --edge-memory 238.4MiB: 1; the fastest of them, full-edge, takes 10s and 286.1MiB.\n",
        ),
    ],
)
def test_what_does_not_fit_is_counted_and_named_where_it_is_faster(capsys, link, edge_memory, said):
    show_plan(MEASURED, link, edge_memory, as_json=False)
    assert said in capsys.readouterr().out


def test_nothing_that_fits_is_said(capsys):
    with pytest.raises(ConfigError, match=r"^nothing fits into --edge-memory 1B: the least is "):
        show_plan(MEASURED, LINK, 1, as_json=False)
    assert capsys.readouterr().out == ""
    with pytest.raises(ConfigError, match=r"^nothing fits into --edge-memory 1B"):
        show_plan(MEASURED, LINK, 1, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["plans"] == []
    assert found["verdict"].startswith("nothing fits into --edge-memory 1B")


def test_where_a_profile_cannot_be_written_is_known_before_it_is_measured(tmp_path):
    check_folder(tmp_path / "profile.json")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match=r"^--out /proc/profile.json: .* in /proc; name another file$"):
        check_folder(Path("/proc/profile.json"))


def test_times_of_the_cloud_that_the_plan_does_not_take_as_they_were_measured_are_said(capsys):
    splits = tuple(measured(0.4, 0.6, 0.2, chains=(0.3, 0.5, None)))
    contradictory = replace(MEASURED, costs=replace(COSTS, splits=splits))

    show_plan(contradictory, LINK, None, as_json=True)
    assert json.loads(capsys.readouterr().out)["cloud_times_changed"] == [
        {"strategy": "hierarchical", "split": "layer1", "measured_s": 0.4, "planned_s": 0.5},
        {"strategy": "split-learning", "split": "layer1", "measured_s": 0.3, "planned_s": 0.4},
        {"strategy": "hierarchical", "split": "layer2", "measured_s": 0.6, "planned_s": 0.5},
        {"strategy": "split-learning", "split": "layer2", "measured_s": 0.5, "planned_s": 0.4},
    ]
    show_plan(contradictory, LINK, None, as_json=False)
    assert ": at layer1, layer2 the plan reckons with the median" in capsys.readouterr().out


@pytest.mark.parametrize("times", [(0.4, 0.4), (0.4, 0.401)])
def test_of_times_that_agree_or_nearly_so_nothing_is_said(capsys, times):
    costs = replace(COSTS, splits=tuple(measured(*times)))
    show_plan(replace(MEASURED, costs=costs), LINK, None, as_json=False)
    assert "median" not in capsys.readouterr().out
