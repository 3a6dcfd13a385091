"""Interrupted, killed, resumed: the same bits as if nothing had happened."""

import json
import shutil
import signal
import socket
import time

import pytest

from benchmarks.outcome import outcome
from benchmarks.processes import lines_of, run_edge, start_edge, wait_for
from tests.integration.conftest import SMALL_RUN, interrupt, outcome_untouched

# More epochs than elsewhere, so that there is something to interrupt; a slow link, so that much is under way.
RUN = [*SMALL_RUN, "--epochs", "4", "--eval-every", "1"]
BATCHES = 28


def edge_batches(run_dir):
    path = run_dir / "metrics.jsonl"
    return path.read_text().count('"kind": "edge"') if path.exists() else 0


def stands_still(run_dir, least):
    """Whether the edge has trained so many batches, and trains no more; too soon a yes costs nothing."""
    seen = edge_batches(run_dir)
    time.sleep(1.0)
    return seen == edge_batches(run_dir) >= least


def counts(run_dir):
    return json.loads((run_dir / "counters.json").read_text())


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    """What a run comes to that nobody touches."""
    return outcome_untouched(tmp_path_factory.mktemp("untouched"), *RUN)


def test_ctrl_c_says_how_to_go_on_and_the_same_directory_resumes(clouds, tmp_path, untouched):
    cloud, run_dir = clouds(), tmp_path / "edge"
    edge = start_edge(cloud.address, run_dir, *RUN)
    wait_for(lambda: lines_of(run_dir) > 6, "a few batches")

    code, _, err = interrupt(edge, signal.SIGINT)

    assert code == 130
    assert f"go on with: edge-worker train --run-dir {run_dir}" in err
    assert "Traceback" not in err
    # Not a word about the settings: they are the run's.
    resumed = run_edge(None, run_dir, timeout_s=250)
    assert resumed.returncode == 0, resumed.stderr
    assert outcome(cloud.run_dir, run_dir) == untouched
    assert json.loads((run_dir / "summary.json").read_text())["resumes"] == 1


def test_ctrl_c_while_the_link_drains_is_heeded_too(clouds, tmp_path, untouched):
    """The edge has trained its last batch, and a slow link still carries what it made of them."""
    cloud, run_dir = clouds(), tmp_path / "edge"
    edge = start_edge(cloud.address, run_dir, *RUN, "--link-rate", "100kbit", "--window", "64KiB")
    wait_for(lambda: edge_batches(run_dir) == BATCHES, "the edge's last batch")

    code, _, err = interrupt(edge, signal.SIGINT)

    assert code == 130
    assert f"stopped after batch {BATCHES}; go on with" in err
    assert not (run_dir / "summary.json").exists()
    resumed = run_edge(cloud.address, run_dir, "--link-rate", "1gbit", timeout_s=250)
    assert resumed.returncode == 0, resumed.stderr
    assert outcome(cloud.run_dir, run_dir) == untouched


def test_lives_that_only_send_count_with_their_bytes_and_their_time(clouds, tmp_path):
    """Killed twice after the edge's last batch: no byte and no life is forgotten, nor the time they took."""
    cloud, run_dir = clouds(), tmp_path / "edge"
    edge = start_edge(cloud.address, run_dir, *RUN, "--link-rate", "500kbit")
    wait_for(lambda: edge_batches(run_dir) == BATCHES, "the edge's last batch")
    edge.kill()
    edge.communicate()
    before = counts(run_dir)
    edge = start_edge(cloud.address, run_dir)
    wait_for(lambda: counts(run_dir)["bytes_up"] > before["bytes_up"] + 100_000, "some sending")
    edge.kill()
    edge.communicate()
    sent = counts(run_dir)["bytes_up"]

    assert run_edge(cloud.address, run_dir, timeout_s=250).returncode == 0

    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["resumes"] == 2
    assert summary["bytes_up"] > sent
    assert 0.1 < summary["link_utilisation"] < 1.1


def test_sigterm_lets_the_cloud_save_and_the_edge_goes_on_with_its_successor(clouds, tmp_path, untouched):
    cloud, run_dir = clouds(), tmp_path / "edge"
    edge = start_edge(cloud.address, run_dir, *RUN)
    wait_for(lambda: lines_of(run_dir) > 8, "a few batches")

    assert cloud.stop() == 0
    cloud = clouds(listen=cloud.address)
    _, err = edge.communicate(timeout=250)

    assert edge.returncode == 0, err
    assert "lost the cloud" in err
    assert outcome(cloud.run_dir, run_dir) == untouched


def test_an_edge_that_resumes_before_its_cloud_trains_on_alone_until_its_spool_is_full(
    clouds, tmp_path, untouched
):
    """The cloud knows the run, and its records are here: nobody need wait."""
    cloud, run_dir = clouds(), tmp_path / "edge"
    edge = start_edge(cloud.address, run_dir, *RUN)
    wait_for(lambda: edge_batches(run_dir) > 4, "a few batches")
    interrupt(edge, signal.SIGINT)
    assert cloud.stop() == 0
    before = edge_batches(run_dir)

    edge = start_edge(cloud.address, run_dir, "--spool", "900KiB")
    wait_for(lambda: stands_still(run_dir, before + 1) or edge.poll() is not None, "a full spool")
    alone = edge_batches(run_dir)
    clouds(listen=cloud.address)
    _, err = edge.communicate(timeout=250)

    assert edge.returncode == 0, err
    assert alone < BATCHES
    assert f"no cloud answers at {cloud.address}" in err
    assert "training goes on" in err
    assert outcome(cloud.run_dir, run_dir) == untouched
    assert json.loads((run_dir / "summary.json").read_text())["edge_wait_s"] > 0


def test_finished_run_prints_its_table_and_contacts_nobody(clouds, tmp_path):
    cloud, run_dir = clouds(), tmp_path / "edge"
    first = run_edge(cloud.address, run_dir, *SMALL_RUN, "--epochs", "1", timeout_s=250)
    cloud.kill()

    again = run_edge(cloud.address, run_dir, timeout_s=60)

    assert again.returncode == 0, again.stderr
    assert again.stdout == first.stdout
    assert "accuracy of the whole (cloud)" in again.stdout


def test_run_with_nothing_left_to_send_ends_as_it_would_have(clouds, tmp_path):
    """The edge died between the cloud's last word and its own summary: the cloud says it again."""
    cloud, run_dir = clouds(), tmp_path / "edge"
    first = run_edge(cloud.address, run_dir, *SMALL_RUN, "--epochs", "1", timeout_s=250)
    assert first.returncode == 0, first.stderr
    before = outcome(cloud.run_dir, run_dir)
    cloud_busy_s = json.loads((run_dir / "summary.json").read_text())["cloud_busy_s"]

    for _ in range(3):
        (run_dir / "summary.json").unlink()
        again = run_edge(cloud.address, run_dir, timeout_s=60)
        assert again.returncode == 0, again.stderr
        assert outcome(cloud.run_dir, run_dir) == before
        assert json.loads((run_dir / "summary.json").read_text())["cloud_busy_s"] == cloud_busy_s


def test_the_older_of_two_processes_with_one_session_is_ended(clouds, tmp_path):
    """A copy of the run directory, started elsewhere, is a newer generation: the first one stops for good."""
    cloud, run_dir = clouds(), tmp_path / "edge"
    slow = ["--link-rate", "200kbit", "--epochs", "3"]
    first = start_edge(cloud.address, run_dir, *SMALL_RUN, *slow)
    wait_for(lambda: lines_of(run_dir) > 4, "a few batches")
    shutil.copytree(run_dir, tmp_path / "copy")

    second = start_edge(cloud.address, tmp_path / "copy", *SMALL_RUN, *slow)
    _, err = first.communicate(timeout=120)
    second.kill()
    second.communicate()

    assert first.returncode == 1
    assert "a newer stream of this session has taken over" in err.splitlines()[-1]
    assert "Traceback" not in err


def test_sigterm_while_nobody_answers_ends_the_edge_at_once(tmp_path):
    """It does not wait out the time that a first connection may take."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(120)
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        edge = start_edge(address, tmp_path / "edge", *SMALL_RUN, "--connect-timeout", "600s")
        with silent.accept()[0]:
            code, _, err = interrupt(edge, signal.SIGTERM)

    assert code == 128 + signal.SIGTERM
    assert err == "stopped before the cloud answered; the same command starts again\n"
    assert not (tmp_path / "edge" / "run.json").exists()
