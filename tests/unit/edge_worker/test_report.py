"""The report of a comparison, written of results that are made up here."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from common.units import parse_rate
from edge_worker.comparison import Cell, Figures, Point, Result, document, rows
from edge_worker.report import doubts, print_report, verdicts, write_report
from tests.browser import cells_in, figures_of

ABOUT = {
    "settings": {"model": "resnet18", "dataset": "</script><b>", "epochs": 2, "batch_size": 8, "seed": 0},
    "edge": "a Pi",
    "cloud": "a server",
}
SLOW, FAST = parse_rate("2mbit"), parse_rate("wifi")


def figures(epoch_s):
    return Figures(
        epoch_s=epoch_s,
        edge_s=1.0,
        link_s=0.5,
        cloud_s=0.25,
        bytes_up=1e6 * epoch_s,
        bytes_down=1e4,
        memory_bytes=1 << 28,
    )


def result(strategy, epoch_s, **cell):
    curve = tuple(
        Point(epoch=each, train_s=each * epoch_s, bytes_up=1e6 * each, accuracy=0.4 * each) for each in (1, 2)
    )
    return Result(
        cell=Cell(strategy=strategy, **cell),
        predicted=figures(1.1 * epoch_s),
        measured=figures(epoch_s),
        accuracy=0.8,
        exit_accuracy=0.7 if strategy == "hierarchical" else None,
        resumes=0,
        curve=curve,
    )


RESULTS = [
    result("hierarchical", 3.0, rate=SLOW, split="layer2", bits=4),
    result("full-cloud", 6.0, rate=SLOW, images="resend"),
    result("full-cloud", 2.0, rate=SLOW, images="once"),
    result("hierarchical", 2.5, rate=FAST, split="layer1", bits=8),
    Result(cell=Cell(strategy="split-learning", rate=FAST), predicted=None, error="no <cloud> answers"),
    result("full-edge", 5.0),
]


def test_each_cell_has_a_place_and_a_word_of_its_own():
    names = [each.cell.name for each in RESULTS]
    assert names[0] == "2mbit-hierarchical"
    assert names[2] == "2mbit-full-cloud-once"
    assert names[-1] == "no-link-full-edge"
    assert len(set(names)) == len(names)
    assert RESULTS[3].cell.link == "wifi"


def test_the_method_is_set_against_all_others_over_the_same_link_and_those_without_one():
    found = {(each["link"], each["other"]): each["times"] for each in document(RESULTS, ABOUT)["against"]}

    assert found == {
        ("2mbit", "full-cloud (resend)"): 0.5,
        ("2mbit", "full-cloud (once)"): 1.5,
        ("2mbit", "full-edge"): pytest.approx(0.6),
        ("wifi", "full-edge"): 0.5,
    }
    slow, fast = verdicts(document(RESULTS, ABOUT))
    assert "takes 50% less time than full-cloud (resend), 50% more time than full-cloud (once)" in slow
    assert slow.endswith("faster here: full-cloud (once).")
    assert fast == "wifi: an epoch of hierarchical takes 50% less time than full-edge."


def test_a_strategy_that_takes_the_same_time_is_said_to_take_as_long():
    (sentence,) = verdicts({"against": [{"link": "wifi", "other": "full-edge", "times": 1.004}]})

    assert sentence == "wifi: an epoch of hierarchical takes as long as full-edge."


def test_a_time_that_is_far_from_what_was_expected_is_told():
    odd = replace(RESULTS[1], measured=figures(3.0 * 6.0))
    whole = document([*RESULTS, odd, replace(RESULTS[-1], predicted=figures(12.0))], ABOUT)

    assert doubts(document(RESULTS, ABOUT)) == []
    (sentence,) = doubts(whole)
    assert "full-cloud (resend) at 2mbit (2.7 times as long), full-edge (0.42 times as long). Was" in sentence


@pytest.mark.parametrize("limit", [None, 1280])
def test_how_many_images_it_is_about_and_what_was_interrupted_is_told(tmp_path, capsys, limit):
    about = {**ABOUT, "settings": {**ABOUT["settings"], "train_limit": limit, "test_limit": 500}}
    whole = write_report(tmp_path, document([RESULTS[0], replace(RESULTS[1], resumes=1)], about))

    print_report(whole)
    told = "all" if limit is None else "1,280"
    assert f"{told} images: one epoch" in " ".join(capsys.readouterr().out.split())
    page = (tmp_path / "report.html").read_text()
    assert f"Trained on {told} images, tested on 500:" in page
    assert page.count("†") == 2  # at its name, and what it means
    assert "full-cloud (resend) †" in page


def test_json_csv_and_page_have_the_same_figures(tmp_path):
    write_report(tmp_path, document(RESULTS, ABOUT))

    whole = json.loads((tmp_path / "report.json").read_text())
    assert [{n: v for n, v in cell.items() if n != "curve"} for cell in whole["cells"]] == rows(RESULTS)
    assert whole["cells"][0]["curve"][1] == {"epoch": 2, "train_s": 6.0, "bytes_up": 2e6, "accuracy": 0.8}
    with (tmp_path / "report.csv").open() as file:
        found = list(csv.DictReader(file))
    assert [row["epoch_s"] for row in found] == ["3.0", "6.0", "2.0", "2.5", "", "5.0"]
    assert found[4]["error"] == "no <cloud> answers"
    for name in ("epoch-time", "busy", "accuracy-time", "accuracy-bytes", "bytes", "memory"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "report.html").read_text()
    assert cells_in(page) == cells_in_report(whole)
    assert figures_of(page) == whole
    assert page.count("<svg") == 6
    assert "no &lt;cloud&gt; answers" in page
    assert "<b>" not in page
    assert re.findall(r"""(?:src|href)=["'](?!#)[^"']*|url\((?!#)[^)]*""", page) == []  # nothing is fetched


def cells_in_report(whole):
    """The figures that the page's table shows of each trained cell, in its order."""
    expected = "epoch_s predicted_epoch_s edge_s link_s cloud_s bytes_up bytes_down memory_bytes"
    names = [*expected.split(), "accuracy", "exit_accuracy"]
    return [[cell[name] for name in names] for cell in whole["cells"] if cell["error"] is None]


def test_a_report_of_failures_alone_can_be_written_and_printed(tmp_path, capsys):
    whole = write_report(tmp_path, document(RESULTS[4:5], ABOUT))

    print_report(whole)
    assert "failed" in capsys.readouterr().out
    assert not list(Path(tmp_path).glob("*.png"))
    assert cells_in((tmp_path / "report.html").read_text()) == []
