"""What the benchmarks of the plan make of a profile and of a report; both are made up here."""

import json
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from benchmarks import paper, plan_accuracy, plan_choice, strategies
from common.units import parse_rate
from edge_worker.comparison import Cell, Figures, Result, document
from edge_worker.costs import Link, WholeCost
from edge_worker.planner import plans
from edge_worker.profile_file import Measured, write_profile
from tests.unit.edge_worker.test_planner import COSTS

PLACES = ("layer2", "layer3")
EPOCH_S = {"hierarchical": 3.0, "split-learning": 9.0, "full-cloud": 8.0, "full-edge": 4.0}


def figures(epoch_s):
    busy = {"edge_s": 1.0, "link_s": 0.5, "cloud_s": 0.2}
    return Figures(epoch_s=epoch_s, **busy, bytes_up=1e6, bytes_down=1e4, memory_bytes=1 << 20)


def report_of(arguments):
    """A comparison as the flags ask for it; the plan expects 4 % more than what each cell took."""
    given = list(arguments)
    rates = [value for flag, value in pairwise(given) if flag == "--link-rate"]
    names = given[given.index("--strategies") + 1].split(",") if "--strategies" in given else list(EPOCH_S)
    ways = ["resend"] if "--images" in given else ["resend", "once"]
    cells = []
    for rate in map(parse_rate, rates):
        for name in names:
            if name == "full-cloud":
                cells += [Cell(strategy=name, images=way, rate=rate) for way in ways]
            elif name != "full-edge":
                cells.append(Cell(strategy=name, rate=rate, split="layer2", bits=4))
    cells += [Cell(strategy=name) for name in names if name == "full-edge"]
    results = [
        Result(
            cell=cell,
            predicted=figures(1.04 * EPOCH_S[cell.strategy]),
            measured=figures(EPOCH_S[cell.strategy]),
            accuracy=0.5,
        )
        for cell in cells
    ]
    return document(results, {})


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Run a benchmark whose comparisons are made up; its figures, and the flags of each comparison."""

    def run(module, *arguments):
        asked = []

        def compared(work, *flags, profile=None):
            asked.append(flags)
            return report_of(flags)

        monkeypatch.setattr(module, "compared", compared, raising=False)
        monkeypatch.setattr(module, "data_of", lambda name, data_dir, work: ["--dataset", name])
        done = CliRunner().invoke(module.main, ["--work", str(tmp_path), *arguments])
        assert done.exit_code in (0, 1), done.output
        # What it was measured on comes before the figures, on stderr.
        return [json.loads(line) for line in done.output.splitlines() if line.startswith("{")], asked

    return run


def test_the_plan_is_judged_over_twenty_four_cells(run, monkeypatch, tmp_path):
    """By the median of the profiles: two of four say that the whole network takes as long again."""
    path, link = tmp_path / "profile.json", Link(up_bps=1e6, down_bps=1e6)
    middle = replace(
        COSTS,
        splits=tuple(replace(each, split=name) for each, name in zip(COSTS.splits, PLACES, strict=True)),
    )
    profiles = []

    def profiled(work, *flags):
        whole = WholeCost(step_s=2.0 if work.name in ("profile-1", "profile-last") else 1.0, memory_bytes=1)
        costs = replace(middle, whole=whole)
        write_profile(path, Measured(settings={}, edge="a Pi", cloud="a server", link=link, costs=costs))
        profiles.append((work.parent.name, work.name))
        return path

    monkeypatch.setattr(plan_accuracy, "profiled", profiled)
    monkeypatch.setattr(plan_accuracy, "WHERE", {"resnet18": ("layer2", 4), "vgg16": ("layer2", 4)})

    monkeypatch.setattr(plan_accuracy, "BAR", 0.2)

    found, asked = run(plan_accuracy)

    assert len(profiles) == len(set(profiles)) == 2 * 4 * 4
    values = {(each["name"], *each["case"].values()): each["value"] for each in found}
    edge = ("vgg16", "1mbit", "full-edge")
    assert values[("predicted_epoch_s", *edge)] == pytest.approx(1.5 * COSTS.batches)
    assert values[("profiles_apart", *edge)] == pytest.approx(1.0)
    assert values[("error", *edge)] == pytest.approx(
        abs(1.5 * COSTS.batches / EPOCH_S["full-edge"] - 1), abs=1e-4
    )
    assert values[("profiles_apart", "vgg16", "5mbit", "full-cloud")] == 0
    assert len({tuple(flags) for flags in asked}) == 24
    missed = [each for each in found if each["name"] == "error" and not each["holds"]]
    assert 0 < len(missed) < 24
    assert len(asked) == 24 + 2 * len(missed)  # to be sure that it is no accident
    (median,) = (each for each in found if each["name"] == "median_error")
    assert (median["case"], median["at_most"]) == ({"cells": 24}, 0.05)


def test_all_strategies_are_set_against_the_method_over_both_links(run):
    found, asked = run(strategies)

    times = {tuple(each["case"].values()): each["value"] for each in found if each["name"] == "time_against"}
    assert times[("vgg16", "2mbit", "full-cloud (once)")] == 0.375
    assert len(times) == 2 * 2 * 4
    best = {each["case"]["model"]: each for each in found if each["name"] == "most_saved"}
    assert (best["vgg16"]["value"], best["vgg16"]["holds"]) == (0.625, True)
    assert (best["resnet18"]["at_least"], best["resnet18"]["holds"]) == (0.61, True)
    assert all(flags[flags.index("--split") + 1] == "auto" for flags in asked)


def test_a_headline_is_met_where_the_plan_saves_as_much_and_its_best_row_is_trained(
    run, monkeypatch, tmp_path
):
    path, link = tmp_path / "profile.json", Link(up_bps=1e6, down_bps=1e6)
    costs = replace(COSTS, images=replace(COSTS.images, bytes=500_000))
    write_profile(path, Measured(settings={}, edge="a Pi", cloud="a server", link=link, costs=costs))
    monkeypatch.setattr(paper, "profiled", lambda work, *flags: path)

    found, asked = run(paper)

    case = {"model": "resnet18", "dataset": "cifar10", "cloud": "a server", "against": "resend", "epochs": 3}
    case |= {"split": "layer3", "bits": 4}
    ends = {each["name"]: each["value"] for each in found if each["case"] == case}

    def saving(rate):
        rows = paper.savings(costs, rate, "resend")
        return next(row.saving for row in rows if (row.split, row.bits) == ("layer3", 4))

    # Above the upper end the images take too little time for it.
    assert saving(ends["headline_met_to"]) >= 0.61 > saving(1.05 * ends["headline_met_to"])
    assert saving(ends["headline_met_from"]) >= 0.61
    # The slowest of the rates that are measured has most to gain.
    assert [flags[flags.index("--link-rate") + 1] for flags in asked] == ["1mbit"] * 4
    assert {flags[flags.index("--split") + 1] for flags in asked} == {"layer3"}
    saved = [
        each for each in found if each["name"] == "measured_saving" and each["case"]["against"] == "resend"
    ]
    assert [each["value"] for each in saved] == [0.625] * 4
    assert [each["holds"] for each in saved] == [True, True, True, False]  # 29, 61, 25 and 81 in a hundred


@pytest.fixture
def run_choice(run, monkeypatch, tmp_path):
    """Run plan_choice with made-up epochs; what was trained in each setting, and its figures."""

    def run_choice(epoch_s):
        path, link = tmp_path / "profile.json", Link(up_bps=1e6, down_bps=1e6)
        write_profile(path, Measured(settings={}, edge="a Pi", cloud="a server", link=link, costs=COSTS))
        monkeypatch.setattr(plan_choice, "profiled", lambda work, *flags: path)
        trained = {}

        @contextmanager
        def trainings(work, rate, settings):
            there = trained.setdefault((work.name, rate), [])

            def timed(plan, number):
                there.append((plan.name, number))
                return epoch_s(plan, number, (work.name, rate), there[0][0] == plan.name)

            yield timed

        monkeypatch.setattr(plan_choice, "trainings", trainings)
        return trained, run(plan_choice)[0]

    return run_choice


def test_the_plan_s_first_choice_is_trained_beside_five_others_in_ten_settings(run_choice):
    wrong = []

    def epoch_s(plan, number, setting, is_first):
        if not wrong:
            wrong.append(setting)  # the plan is right, but in one setting
        return plan.epoch_s * (2 if is_first and setting == wrong[0] else 1)

    trained, found = run_choice(epoch_s)

    assert len(trained) == 10
    for there in trained.values():
        assert len(there) == len(set(there)) == 6 + 2 * 6  # ratios without noise: no more pairs than needed
        assert [number for _, number in there] == [0] * 6 + [pair for pair in range(1, 7) for _ in range(2)]
        assert there[6] == (there[0][0], 1)
        assert there[9] == (there[0][0], 2)  # by turns, which of them goes first too
    (last,) = (each for each in found if each["name"] == "settings_in_which_the_first_is_fastest")
    assert (last["case"], last["value"], last["holds"]) == ({"settings": 10}, 0.9, True)
    assert max(each["value"] for each in found if each["name"] == "first_slower_than_fastest_other") > 0.05


def test_one_lucky_training_of_six_does_not_decide_and_noise_takes_more_pairs(run_choice):
    def epoch_s(plan, number, setting, is_first):
        if number == 0:
            return 1.0 if is_first else 0.5  # as if the host had been slow just then
        return 10 + (1.4 if number % 2 else -0.6) if is_first else 10.0

    trained, found = run_choice(epoch_s)

    assert {len(there) for there in trained.values()} == {6 + 2 * 12}
    shares = [each["value"] for each in found if each["name"] == "first_slower_than_fastest_other"]
    assert shares == [pytest.approx(0.04, abs=1e-4)] * 10
    assert found[-1]["value"] == 1.0


@pytest.mark.parametrize(
    ("ratios", "pairs"),
    [
        ([1.2] * 20, 6),
        ([1.0] * 20, 6),
        ([1.2, 1.0] + [1.2] * 20, 10),
        ([1.0] * 5 + [1.9] + [1.0] * 20, 10),  # one that the host held up
        ([1.2, 1.02, 1.0] * 20, 12),
    ],
)
def test_pairs_are_trained_until_a_sign_test_tells_which_side_their_median_is_on(ratios, pairs):
    one, other = list(plans(COSTS, Link(up_bps=1e6, down_bps=1e6)))[:2]

    found = plan_choice.slower(lambda plan, number: ratios[number - 1] if plan == one else 1.0, one, other)

    assert found == pytest.approx([ratio - 1 for ratio in ratios[:pairs]])


def test_what_was_trained_is_not_trained_again_and_what_was_stopped_leaves_nothing(monkeypatch, tmp_path):
    trained = []

    @contextmanager
    def cloud_on_core(run_dir, *flags):
        assert not run_dir.parent.exists()
        run_dir.mkdir(parents=True)
        yield SimpleNamespace(address="127.0.0.1:1")

    def train_at(address, run_dir, *flags):
        trained.append(run_dir.name)
        run_dir.mkdir()
        (run_dir / "summary.json").write_text(json.dumps({"train_wall_s": 6.0}))

    monkeypatch.setattr(plan_choice, "two_machines", nullcontext)
    monkeypatch.setattr(plan_choice, "cloud_on_core", cloud_on_core)
    monkeypatch.setattr(plan_choice, "train_at", train_at)
    (tmp_path / "scratch" / "stopped").mkdir(parents=True)
    plan = next(iter(plans(COSTS, Link(up_bps=1e6, down_bps=1e6))))

    for _ in range(2):
        with plan_choice.trainings(tmp_path, "1mbit", ()) as timed:
            assert timed(plan, 3) == 2.0

    assert trained == ["1mbit-full-edge-3"]
    assert [path.name for path in tmp_path.iterdir()] == ["1mbit-full-edge-3.json"]


def test_a_choice_is_trained_with_the_flags_that_say_it():
    found = {
        plan.name: plan_choice.flags_of(plan, "2mbit")
        for plan in plans(COSTS, Link(up_bps=2e6, down_bps=2e6))
    }

    link = ["--link-rate", "2mbit", "--link-rate-down", "2mbit"]
    assert found["full-edge"] == ["--strategy", "full-edge", *link]
    assert found["full-cloud --images once"] == ["--strategy", "full-cloud", *link, "--images", "once"]
    assert found["hierarchical layer3, 4 bits"] == [
        *("--strategy", "hierarchical", *link, "--split", "layer3", "--bits", "4")
    ]
