"""Strategies compared by real processes: a cell fails, one is stopped, a browser opens the report."""

import json
import shutil
import signal
import subprocess

import pytest

from benchmarks.processes import cloud_at, program, wait_for, worker_env
from edge_worker.report import COLUMNS
from tests.browser import cells_in, dump_dom, figures_of, find_browser

SETTINGS = (
    "--dataset synthetic --train-limit 96 --test-limit 20 --batch-size 16 --model resnet18 --split layer3 "
    "--threads 1 --precision float32 --workers 1 --epochs 2 --link-rate 300kbit"
).split()
STRATEGIES = ["--bits", "auto", "--strategies", "full-edge,hierarchical"]


def start(cloud, out, *arguments):
    command = [*program("edge-worker"), "compare", "--cloud", cloud.address, "--out", str(out), *SETTINGS]
    return subprocess.Popen(
        [*command, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=worker_env(),
    )


def ended(process):
    out, err = process.communicate(timeout=280)
    return process.returncode, out, err


def report_in(out):
    return json.loads((out / "report.json").read_text())


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A comparison of which the first start is stopped, and in the second one cell cannot be trained."""
    base = tmp_path_factory.mktemp("compared")
    out = base / "out"
    spoiled = out / "cells" / "no-link-full-edge" / "checkpoints"
    spoiled.mkdir(parents=True)
    (spoiled / "000000000001.ckpt").touch()
    with cloud_at(base / "cloud") as cloud:
        first = start(cloud, out, *STRATEGIES)
        wait_for(
            lambda: (
                (out / "cells" / "300kbit-hierarchical" / "run.json").exists() or first.poll() is not None
            ),
            "the first cell",
            timeout_s=250,
        )
        first.send_signal(signal.SIGTERM)
        stopped = ended(first)
        broken = ended(start(cloud, out, *STRATEGIES))
        half = report_in(out)
        shutil.rmtree(spoiled.parent)
        yield out, cloud, stopped, broken, half


@pytest.mark.timeout(600)
def test_a_comparison_goes_on_where_it_was_and_a_failure_spoils_no_other_cell(compared):
    out, cloud, stopped, broken, half = compared
    assert stopped[0] == 128 + signal.SIGTERM, stopped
    assert stopped[2].splitlines()[-1] == "stopped; the same command goes on"

    assert broken[0] == 1, broken
    assert "1 of 2 cells failed" in broken[2].splitlines()[-1]
    method, alone = half["cells"]
    assert "has the checkpoints of a run, but not its run.json" in alone["error"]
    assert alone["error"].endswith(f"delete {out / 'cells' / 'no-link-full-edge'}")
    assert alone["epoch_s"] is None
    assert method["error"] is None
    assert method["resumes"] == 1
    assert [point["epoch"] for point in method["curve"]] == [1, 2]
    assert method["curve"][-1]["train_s"] == pytest.approx(2 * method["epoch_s"])
    assert 0 < method["curve"][0]["bytes_up"] < method["curve"][1]["bytes_up"] <= 2 * method["bytes_up"]
    summary = json.loads((out / "cells" / "300kbit-hierarchical" / "summary.json").read_text())
    assert summary["link_down_busy_s"] > 0  # both ways are emulated
    assert 2 * method["link_s"] == pytest.approx(summary["link_busy_s"] + summary["link_down_busy_s"])
    assert 2 * method["bytes_down"] == summary["bytes_down"]

    code, said, err = ended(start(cloud, out, *STRATEGIES))

    assert code == 0, err
    assert "cell 2 of 2: full-edge" in err
    assert "measuring" not in err
    assert err.count("device cpu") == 1  # only what had failed was trained
    whole = report_in(out)
    assert [cell["error"] for cell in whole["cells"]] == [None] * 2
    assert whole["cells"][0] == method
    assert [each["other"] for each in whole["against"]] == ["full-edge"]
    for cell in whole["cells"]:
        assert cell["predicted_epoch_s"] > 0
    assert "one epoch" in said


@pytest.mark.timeout(600)
def test_other_settings_need_another_directory(compared):
    out, cloud, *_ = compared
    before = report_in(out)
    code, _, err = ended(start(cloud, out, *STRATEGIES, "--lr", "0.5"))

    assert code == 1
    assert "--lr is 0.05 in the comparison at" in err.splitlines()[-1]
    assert report_in(out) == before


@pytest.mark.timeout(600)
def test_a_browser_without_a_network_shows_the_report_s_figures(compared, tmp_path):
    browser = find_browser()
    if browser is None:
        pytest.skip("no Chromium on PATH")
    out, *_ = compared
    whole = report_in(out)

    dom = dump_dom(browser, out / "report.html", tmp_path / "profile")

    assert figures_of(dom) == whole
    trained = [cell for cell in whole["cells"] if cell["error"] is None]
    assert cells_in(dom) == [[cell[figure] for _, figure, _ in COLUMNS] for cell in trained]
    assert dom.count("<svg") == 6
    for cell in trained:
        assert f"{cell['epoch_s']:.3g} s" in dom  # beside its bar


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--strategies", "half-edge"], "--strategies must be some of hierarchical,split-learning"),
        (["--strategies", ","], "--strategies must be some of"),
        (["--link-rate", "300kbit"], "--link-rate must be another one each time"),
        (["--cloud", "127.0.0.1:9"], "no cloud answers at 127.0.0.1:9"),
        (["--spool-full", "drop"], "--strategy split-learning needs --spool-full wait"),
    ],
)
def test_what_cannot_be_compared_is_said(tmp_path, arguments, complaint):
    command = [*program("edge-worker"), "compare", "--out", str(tmp_path / "out"), *SETTINGS, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=worker_env(), timeout=120)

    assert done.returncode == 1
    assert complaint in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_wrong_settings_of_a_first_call_do_not_stay(tmp_path):
    out = tmp_path / "out"
    command = [*program("edge-worker"), "compare", "--out", str(out), *SETTINGS, "--model", "resnet19"]
    done = subprocess.run(command, capture_output=True, text=True, env=worker_env(), timeout=120)

    assert done.returncode == 1
    assert not (out / "compare.json").exists()
