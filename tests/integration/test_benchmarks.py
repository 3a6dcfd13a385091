"""Each benchmark's --quick: one JSON object a line, with what the contract names."""

import json
import subprocess
import sys

import pytest

from benchmarks.processes import worker_env

KEYS = {"name", "case", "value", "unit", "at_least", "at_most", "holds"}
HOSTILE_WRONGS = {
    "wrong_answers",
    "connections_left_open",
    "wrong_ends_of_stalled_streams",
    "refusals_without_one_line",
    "unclean_log_lines",
    "honest_runs_that_differ",
    "honest_runs_interrupted",
    "server_exit_code",
}


@pytest.fixture
def quick(tmp_path):
    """Run a benchmark with --quick; returns its figures by name."""

    def run(name, *arguments):
        out = tmp_path / "figures.jsonl"
        command = [sys.executable, "-m", f"benchmarks.{name}", "--quick", "--out", out, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=worker_env(), timeout=280)
        assert done.returncode == 0, done.stderr
        assert out.read_text() == done.stdout
        figures = [json.loads(line) for line in done.stdout.splitlines()]
        assert all(set(figure) == KEYS for figure in figures)
        assert all(figure["holds"] is None for figure in figures)
        return {figure["name"]: figure["value"] for figure in figures}

    return run


def test_link_counts_the_bytes_that_a_relay_sees(quick):
    """A run's bytes_up and eval_bytes_up are what passed on the wire, to two in a hundred."""
    figures = quick("link")

    assert figures["bytes_up_off"] <= 0.02
    assert "uplink_rate_deviation" in figures


def test_the_demo_trains_a_pair_and_says_how_accurate_it_is(quick):
    figures = quick("demo")

    assert 0 < figures["exit_accuracy"] <= 1
    assert figures["lead"] == pytest.approx(figures["whole_accuracy"] - figures["exit_accuracy"], abs=1e-4)


def test_round_trip_is_interrupted_resumed_and_exported(quick):
    figures = quick("roundtrip")

    assert figures["resumes"] == 1
    assert figures["export_difference"] <= 0.1


def test_an_outage_neither_holds_the_edge_up_nor_loses_anything(quick):
    figures = quick("outage")

    assert figures["link_down"] > 0
    assert figures["edge_wait_s"] == 0
    assert figures["runs_that_differ"] == figures["batches_not_applied_once"] == 0
    assert "time_ratio" in figures


def test_a_satellite_link_carries_a_run_on_one_connection(quick):
    figures = quick("satellite")

    assert figures["reconnects"] == figures["runs_that_differ"] == 0
    # Two first chunks; an unbounded sender would have a hundred kilobytes there.
    assert 0 < figures["bytes_under_way_at_start"] < 1.1 * 2 * (16 << 10)


def test_accuracy_compares_the_pair_with_the_whole(quick, data_dir, tmp_path):
    figures = quick("accuracy", "--data-dir", data_dir, "--work", tmp_path / "work")

    assert {"cloud_accuracy", "exit_accuracy", "accuracy", "accuracy_lost", "bytes_up"} <= set(figures)


def test_a_run_that_is_killed_six_times_ends_as_an_untouched_one(quick):
    """Once in each phase, and once at random: the same bits, every batch applied once."""
    figures = quick("kills")

    assert figures["runs_that_differ"] == 0
    assert figures["batches_not_applied_once"] == 0


def test_a_server_stands_what_no_edge_would_say_and_an_honest_run_beside_it_ends_with_its_bits(quick):
    """The list written by hand and drawn damage; garbage, silence and stalled streams on the same port."""
    figures = quick("hostile")

    assert (figures["messages"], figures["honest_runs"] >= 1) == (600, True)
    assert figures["stalled_streams"] == 3
    assert figures["connections"] > 30
    wrong = {name: value for name, value in figures.items() if name in HOSTILE_WRONGS and value != 0}
    assert not wrong
    assert set(figures) >= HOSTILE_WRONGS


def test_the_codec_is_timed_beside_others_on_real_activations(quick, data_dir):
    """Timed, not judged: but bytes and errors hold on any machine."""
    figures = quick("codec", "--data-dir", data_dir)

    assert figures["bytes_ratio"] < 1
    assert figures["error_ratio"] < 1
    assert figures["encode_ratio"] > 0


def test_codes_take_no_more_bytes_than_their_entropy(quick, data_dir):
    figures = quick("bytes", "--data-dir", data_dir)

    assert figures["bytes_over_entropy"] < 1.03
    assert figures["entropy_by_channel"] <= figures["entropy_pooled"]


def test_sides_are_measured_alone_and_as_a_pair(quick):
    figures = quick("pipeline")

    assert {"alone_s", "pair_s", "pipeline"} <= set(figures)
    assert figures["pair_s"] > 0


def test_streaming_is_measured_against_the_front_alone(quick):
    assert quick("overhead")["overhead"] > 0


def test_edges_that_share_a_cloud_each_get_their_part(quick):
    """In turns: when the first has all its eight batches applied, no other lacks more than one or two."""
    figures = quick("sessions")

    assert figures["sessions_worst"] > 0.7
    assert {"sessions", "session_idle"} <= set(figures)


def test_a_planned_epoch_is_set_beside_a_trained_one(quick):
    figures = quick("plan_accuracy")

    off = figures["predicted_epoch_s"] / figures["measured_epoch_s"] - 1
    assert figures["error"] == pytest.approx(abs(off), abs=1e-3)
    assert figures["median_error"] == figures["error"]


def test_the_plans_first_choice_is_trained_beside_others(quick):
    figures = quick("plan_choice")

    right = figures["first_slower_than_fastest_other"] <= 0.05
    assert figures["settings_in_which_the_first_is_fastest"] == right


def test_strategies_are_set_beside_the_method(quick):
    figures = quick("strategies")

    assert figures["time_against"] > 0
    assert figures["epoch_s"] > 0


def test_a_row_of_the_papers_table_is_predicted_and_trained(quick):
    figures = quick("paper")

    assert {"predicted_saving", "measured_saving"} <= set(figures)
    assert figures["epoch_s"] > 0
    assert 0 <= figures["accuracy"] <= 1
