"""What the hostile benchmark makes of a server's memory and log."""

import pytest

from benchmarks.attacks.seen import Seen


def test_slope_is_that_of_the_second_half_and_single_samples_do_not_move_it():
    seen = Seen(memory=[(sent, 50 * max(sent, 5_000)) for sent in range(0, 10_000, 250)])
    seen.memory[25] = (seen.memory[25][0], 10**9)

    assert seen.slope() == pytest.approx(50)


def test_refusals_and_what_is_no_event_are_found_in_a_log(tmp_path):
    log = tmp_path / "cloud.log"
    log.write_text(
        "10:00:00 INFO device cpu\n"
        "10:00:01 WARNING ended a call of ipv4:127.0.0.1:5: no\n"
        "10:00:01 WARNING ended a call of one who has left: no\n"
        "10:00:02 WARNING a title \x1b]0;\x07\n"
        "Traceback (most recent call last):\n"
    )
    seen = Seen()

    seen.read_log(log)

    assert (seen.lines, seen.refusals) == (5, 1)
    assert [line[:9] for line in seen.unclean] == ["10:00:02 ", "Traceback"]
