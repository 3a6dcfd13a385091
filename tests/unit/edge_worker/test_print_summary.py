"""The table at the end, and what is said below it."""

import pytest

from edge_worker.display import print_summary

SUMMARY = {
    "model": "resnet18",
    "dataset": "cifar10",
    "strategy": "hierarchical",
    "split": "layer2",
    "bits": 4,
    "epochs": 2,
    "batches": 32,
    "samples": 4000,
    "edge_accuracy": 0.7,
    "cloud_accuracy": 0.8,
    "train_wall_s": 25.0,
    "edge_busy_s": 6.5,
    "link_busy_s": 3.7,
    "cloud_busy_s": 21.0,
    "bytes_up": 3 << 20,
    "eval_bytes_up": 1 << 20,
    "bytes_down": 1 << 10,
    "link_rate_bps": 6e6,
    "link_utilisation": 0.14,
    "edge_peak_rss_bytes": 1 << 30,
    "cloud_peak_rss_bytes": 1 << 30,
    "batches_skipped": 0,
    "resumes": 0,
}
WHOLE = {
    "strategy": "full-edge",
    "split": None,
    "bits": None,
    "cloud_accuracy": None,
    "link_busy_s": None,
    "cloud_busy_s": None,
    "link_rate_bps": None,
    "cloud_peak_rss_bytes": None,
}


def test_table_has_both_accuracies_and_what_each_part_took(capsys):
    print_summary(SUMMARY)

    out = capsys.readouterr().out
    for words in (
        "70.00%",
        "80.00%",
        "layer2, 4",
        "25s",
        "6.5s",
        "3MiB",
        "6mbit, 14%",
        "the cloud (its whole process)",
    ):
        assert words in out


def test_table_of_a_network_trained_whole_has_no_link_and_no_cloud(capsys):
    print_summary({**SUMMARY, **WHOLE})

    out = capsys.readouterr().out
    assert "accuracy" in out
    assert "cloud" not in out
    assert "link" not in out


@pytest.mark.parametrize(("resumes", "words"), [(1, "1 time "), (2, "2 times ")])
def test_resumes_are_counted_in_good_english(capsys, resumes, words):
    print_summary({**SUMMARY, "resumes": resumes, "batches_skipped": 0})

    (line,) = [line for line in capsys.readouterr().out.splitlines() if "resumed" in line]
    assert words in line


@pytest.mark.parametrize(("whole", "said"), [(0.705, True), (0.6, True), (0.711, False), (0.8, False)])
def test_user_is_told_where_the_back_hardly_beats_the_exit(capsys, whole, said):
    print_summary({**SUMMARY, "cloud_accuracy": whole})

    assert ("the back added little" in capsys.readouterr().out) is said
