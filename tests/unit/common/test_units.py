import pickle

import click
import pytest
from click.testing import CliRunner

from common.errors import ConfigError
from common.units import (
    DURATION,
    PRESETS,
    PRESETS_HELP,
    RATE,
    SIZE,
    Link,
    Rate,
    format_duration,
    format_rate,
    format_size,
    parse_duration,
    parse_rate,
    parse_size,
    resolve_link,
)


@pytest.mark.parametrize(
    ("text", "bps"),
    [("10mbit", 10e6), ("64kbit", 64e3), ("1.5gbit", 1.5e9), ("9600bit", 9600), (" 2 Mbit/s ", 2e6)],
)
def test_rates_count_in_thousands_of_bits(text, bps):
    """Link rates are decimal everywhere, and so are ours."""
    assert parse_rate(text) == bps
    assert parse_rate(text).preset is None


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [("8MiB", 8 * 2**20), ("64kB", 64000), ("1GiB", 2**30), ("1.5KiB", 1536), ("0B", 0), ("3TiB", 3 * 2**40)],
)
def test_sizes_come_in_decimal_and_binary_units(text, nbytes):
    """KB and KiB differ by 2.4 %, so the two must not be one."""
    assert parse_size(text) == nbytes
    assert isinstance(parse_size(text), int)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("40ms", 0.04), ("60s", 60), ("2min", 120), ("0ms", 0), ("1.5h", 5400), ("250us", 250e-6)],
)
def test_durations_are_seconds(text, seconds):
    assert parse_duration(text) == pytest.approx(seconds)


BAD_NUMBERS = [
    "10",
    "",
    "-1{unit}",
    "nan",
    "inf",
    "nan{unit}",
    "inf{unit}",
    "1e3{unit}",
    "{unit}",
    "1{unit}x",
    "٣{unit}",
]


@pytest.mark.parametrize("text", BAD_NUMBERS)
@pytest.mark.parametrize(
    ("parse", "unit"), [(parse_rate, "mbit"), (parse_size, "MiB"), (parse_duration, "s")]
)
def test_what_is_no_plain_number_with_a_unit_is_refused(parse, unit, text):
    """A bare number could mean anything; the error shows what came and an example of what was wanted."""
    text = text.format(unit=unit)
    with pytest.raises(ConfigError, match=r"wanted a .* such as \d+\w+.*, got '"):
        parse(text)


@pytest.mark.parametrize("text", ["0mbit", "0.0kbit", "10mb", "10MiB", "5g", "9" * 400 + "mbit"])
def test_rates_of_zero_and_units_of_other_things_are_refused(text):
    """A link of rate 0 never ends; MB and Mbit differ by a factor of 8."""
    with pytest.raises(ConfigError, match="wanted a rate"):
        parse_rate(text)


@pytest.mark.parametrize("text", ["0.5B", "64kbit", "1.0001KiB"])
def test_sizes_that_are_not_whole_bytes_are_refused(text):
    with pytest.raises(ConfigError, match="wanted a size in whole bytes"):
        parse_size(text)


@pytest.mark.parametrize(
    ("format_", "value", "text"),
    [
        (format_rate, 10e6, "10mbit"),
        (format_rate, 1.5e9, "1.5gbit"),
        (format_rate, 999.99e6, "1gbit"),
        (format_rate, 0, "0bit"),
        (format_size, 8 * 2**20, "8MiB"),
        (format_size, 1000, "1000B"),
        (format_size, 1010 * 2**10, "1010KiB"),
        (format_duration, 0.04, "40ms"),
        (format_duration, 90, "1.5min"),
        (format_duration, 0, "0s"),
        (format_duration, 5e-7, "0.5us"),
    ],
)
def test_numbers_are_shown_with_the_largest_unit_that_fits(format_, value, text):
    assert format_(value) == text


@pytest.mark.parametrize("value", [1, 999, 1234, 64e3, 5.85e6, 1e9])
def test_what_is_shown_can_be_typed_back(value):
    """A report's numbers go straight into the next command."""
    assert parse_rate(format_rate(value)) == pytest.approx(value, rel=1e-3)
    assert parse_duration(format_duration(value)) == pytest.approx(value, rel=1e-3)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_sets_what_is_not_given(name):
    """`--link-rate 4g` alone describes the whole link."""
    preset = PRESETS[name]
    assert resolve_link(parse_rate(name), None, None) == Link(
        preset.rate_up_bps, preset.rate_down_bps, preset.latency_s
    )
    assert resolve_link(parse_rate(name), 5e6, 0.0) == Link(preset.rate_up_bps, 5e6, 0.0)
    assert resolve_link(None, parse_rate(name), None) == Link(None, preset.rate_down_bps, 0.0)
    assert str(preset) in PRESETS_HELP


def test_without_a_preset_nothing_is_added():
    assert resolve_link(Rate(10e6), None, None) == Link(10e6, None, 0.0)
    assert resolve_link(None, None, None) == Link(None, None, 0.0)


def test_a_rate_keeps_its_preset_through_pickle():
    """Configs travel to worker processes."""
    again = pickle.loads(pickle.dumps(parse_rate("wifi")))
    assert again == parse_rate("wifi")
    assert again.preset == PRESETS["wifi"]


@click.command()
@click.option("--link-rate", type=RATE, default=None)
@click.option("--window", type=SIZE, default=8 * 2**20)
@click.option("--link-latency", type=DURATION, default=0.0)
def command(link_rate, window, link_latency):
    click.echo(f"{link_rate!r} {window!r} {link_latency!r}")


def test_flags_arrive_as_numbers_and_defaults_pass_as_they_are():
    result = CliRunner().invoke(command, ["--link-rate", "10mbit"])
    assert result.output == "10000000.0 8388608 0.0\n"


@pytest.mark.parametrize(
    ("flag", "value", "line"),
    [
        (
            "--link-rate",
            "10",
            "--link-rate wants a rate with its unit such as 10mbit, or one of 3g, 4g, wifi, got '10'",
        ),
        ("--window", "8", "--window wants a size in whole bytes with its unit such as 8MiB, got '8'"),
        ("--link-latency", "-1ms", "--link-latency wants a time with its unit such as 40ms, got '-1ms'"),
    ],
)
def test_a_bad_value_is_one_line_that_names_the_flag_and_exit_code_2(flag, value, line):
    """The command line itself is wrong, which is what exit code 2 says."""
    result = CliRunner().invoke(command, [flag, value])
    assert result.exit_code == 2
    assert result.output.splitlines()[-1] == f"Error: {line}"
