"""What a peer wrote is shown as text and nothing else."""

import pytest

from common.logs import one_line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("batch 3, wanted 4", "batch 3, wanted 4"),
        ("two\r\nlines\tand  gaps", "two lines and gaps"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("abc\u202edef\ud800", r"abc\u202edef\ud800"),
        ("größer", "größer"),
        ("", ""),
    ],
)
def test_only_what_can_be_printed_on_one_line_is_left(text, shown):
    assert one_line(text) == shown


def test_what_is_long_is_cut_and_says_so():
    line = one_line("x" * 10_000_000)

    assert len(line) < 1000
    assert line.endswith("... (10000000 characters)")
