"""What a peer wrote is shown as text and nothing else."""

import pytest

from common.logs import one_line, short_reason


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


@pytest.mark.parametrize(
    ("details", "reason"),
    [
        (
            "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:9: Failed to connect to "
            "remote host: connect: Connection refused (111)",
            "Connection refused (111)",
        ),
        (
            "DNS resolution failed for nosuch:1: C-ares status is not ARES_SUCCESS qtype=A name=nosuch "
            "is_balancer=0: Domain name not found",
            "Domain name not found",
        ),
        (
            "errors resolving nosuch:9: [field:hostname lookup error:address lookup failed for nosuch:9: "
            "Domain name not found]",
            "Domain name not found",
        ),
        ("the cloud is shutting down: it saves", "the cloud is shutting down: it saves"),
        ("Socket closed", "Socket closed"),
    ],
)
def test_the_reason_of_a_failed_connection_is_its_last_part(details, reason):
    assert short_reason(details) == reason


def test_what_is_long_is_cut_and_says_so():
    line = one_line("x" * 10_000_000)

    assert len(line) < 1000
    assert line.endswith("... (10000000 characters)")
