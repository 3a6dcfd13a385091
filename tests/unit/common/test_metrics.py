"""Lines of JSON that can be cut back, and the peak of memory."""

import json
import os
import resource
import subprocess
import sys

import pytest

from common.errors import CheckpointError
from common.metrics import MetricsLog, peak_rss_bytes


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def log(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl", keep_bytes=0)
    yield log
    log.close()


def test_a_line_can_be_read_as_soon_as_it_is_written(log, tmp_path):
    """Whoever follows the file sees the run as it goes, and a killed process loses no line."""
    log.write(kind="edge", seq=0, loss=0.5)
    log.write(kind="eval", accuracy=None)

    assert lines(tmp_path / "metrics.jsonl") == [
        {"kind": "edge", "seq": 0, "loss": 0.5},
        {"kind": "eval", "accuracy": None},
    ]


def test_text_with_line_breaks_stays_one_line(log, tmp_path):
    log.write(note='two\nlines, "quoted", é')

    assert (tmp_path / "metrics.jsonl").read_bytes().count(b"\n") == 1
    assert lines(tmp_path / "metrics.jsonl") == [{"note": 'two\nlines, "quoted", é'}]


def test_numbers_come_back_to_the_last_bit(log, tmp_path):
    """Two runs are the same if these files are."""
    log.write(loss=0.1 + 0.2, small=5e-324)

    assert lines(tmp_path / "metrics.jsonl") == [{"loss": 0.1 + 0.2, "small": 5e-324}]


def test_a_log_cut_back_to_a_mark_goes_on_as_if_what_followed_had_not_been(tmp_path):
    path = tmp_path / "metrics.jsonl"
    first = MetricsLog(path, keep_bytes=0)
    first.write(seq=0)
    mark = first.sync()
    first.write(seq=1, loss="of a step that is to be repeated")
    first.close()

    second = MetricsLog(path, mark)
    second.write(seq=1)

    assert lines(path) == [{"seq": 0}, {"seq": 1}]
    assert second.sync() == path.stat().st_size
    second.close()


def test_a_half_written_line_is_cut_off_with_the_rest(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"seq": 0}\n{"seq": 1, "lo')

    MetricsLog(path, keep_bytes=11).close()

    assert path.read_bytes() == b'{"seq": 0}\n'


def test_the_length_told_is_on_the_disk_first(log, tmp_path, monkeypatch):
    """A checkpoint holds this length: after a power cut the file must not be shorter."""
    log.write(seq=0)
    synced = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.fstat(handle).st_ino))

    length = log.sync()

    assert synced == [(tmp_path / "metrics.jsonl").stat().st_ino]
    assert length == (tmp_path / "metrics.jsonl").stat().st_size


def test_a_line_that_finds_no_room_is_named_with_what_to_do(log):
    """A limit on file sizes stands in for a full disk."""
    log.write(seq=0)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (log.sync(), limits[1]))
    try:
        with pytest.raises(
            CheckpointError,
            match=r"^cannot write .*metrics\.jsonl: File too large; raise the limit on file sizes",
        ):
            log.write(seq=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_file_that_cannot_be_opened_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()

    with pytest.raises(CheckpointError, match=r"^cannot write .*metrics\.jsonl: Is a directory; mend that"):
        MetricsLog(tmp_path / "metrics.jsonl", keep_bytes=0)


def test_peak_memory_is_in_bytes_and_never_falls():
    held = bytearray(64 << 20)
    held[::4096] = b"1" * len(held[::4096])
    during = peak_rss_bytes()
    del held

    assert 64 << 20 <= during < 1 << 40
    assert peak_rss_bytes() >= during - (1 << 20)  # the kernel counts in batches of pages


def test_a_log_shorter_than_its_mark_is_refused(tmp_path):
    """Cutting it "back" would fill it up with zeros."""
    (tmp_path / "metrics.jsonl").write_bytes(b"{}\n")

    with pytest.raises(CheckpointError, match=r"metrics\.jsonl has 3 bytes, .* wrote 100; put the file back"):
        MetricsLog(tmp_path / "metrics.jsonl", 100)

    assert (tmp_path / "metrics.jsonl").read_bytes() == b"{}\n"


def test_a_small_process_started_by_a_large_one_reports_its_own_peak():
    held = bytearray(400 << 20)
    held[::4096] = b"1" * len(held[::4096])
    code = "from common.metrics import peak_rss_bytes; print(peak_rss_bytes())"

    told = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout

    assert len(held) > int(told) > 0
