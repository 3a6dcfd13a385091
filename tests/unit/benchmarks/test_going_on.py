"""What a benchmark remembers of an earlier start."""

import json

import click
import pytest
from click.testing import CliRunner

from benchmarks.report import Report, benchmark


@pytest.fixture
def told(tmp_path):
    """A file in which one of two figures of a case fell short of its bar."""
    path = tmp_path / "figures.jsonl"
    report = Report(path, quick=False)
    report.figure("speed", {"net": "a", "bits": 8}, 4.0, "times", at_least=5.0)
    report.figure("size", {"net": "a"}, 1.0, "times", at_most=2.0)
    report.figure("size", {"net": "b"}, 1.0, "times", at_most=2.0)
    return path


@pytest.mark.parametrize(("net", "code"), [("a", 1), ("b", 0)])
def test_a_bar_that_was_missed_is_not_forgotten_by_going_on(told, net, code):
    @benchmark
    def main(report):
        assert report.is_done("size", {"net": net})

    assert CliRunner().invoke(main, ["--out", str(told)]).exit_code == code


def test_a_figure_that_is_measured_again_is_judged_by_what_it_is_now(told):
    @benchmark
    def main(report):
        assert not report.is_done("speed", {"net": "a", "bits": 4})
        report.figure("speed", {"net": "a", "bits": 8}, 6.0, "times", at_least=5.0)

    done = CliRunner().invoke(main, ["--out", str(told)])

    assert done.exit_code == 0
    assert json.loads(done.stdout.splitlines()[-1])["holds"] is True


def test_a_benchmark_s_own_options_stay():
    @benchmark
    @click.option("--rounds", default=3)
    def main(report, rounds):
        report.figure("rounds", {}, rounds, "times")

    done = CliRunner().invoke(main, ["--rounds", "2", "--quick"])

    assert json.loads(done.stdout.splitlines()[-1])["value"] == 2
