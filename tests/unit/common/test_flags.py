"""Config fields as flags, and failures as one line."""

import dataclasses
import re

import click
import pytest

from cloud_worker import cli as cloud_cli
from cloud_worker.config import ServeConfig
from common.errors import ConfigError, DataError
from common.flags import Commands, flag, options_of
from common.units import SIZE
from edge_worker import cli as edge_cli
from edge_worker.config import TrainConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of a command made up for these tests."""

    name: str = flag("river", "what it is called")
    batch_size: int = flag(16, "images in a batch", type=int)
    limit: int | None = flag(None, "most images", type=int)
    window: int = flag(8, "bytes", type=SIZE)
    loud: bool = flag(False, "say more", is_flag=True)

    def __post_init__(self):
        if self.batch_size < 2:
            raise ConfigError(f"--batch-size must be 2 or more, got {self.batch_size}")


@pytest.fixture
def command(capsys):
    """Run `app train ARGUMENTS...`; returns exit code, stdout, stderr and what `train` was called with."""
    calls = []

    @click.group(cls=Commands, context_settings={"auto_envvar_prefix": "APP"})
    def main():
        """Group of one."""

    @main.command()
    @options_of(Config)
    def train(config, given):
        """Train what there is."""
        calls.append((config, given))
        if config.name == "broken":
            raise DataError("the data is\n  gone;   bring it back")
        if config.name == "slow":
            raise KeyboardInterrupt
        if config.name == "bug":
            raise ZeroDivisionError("a bug")

    def run(*arguments, name="train"):
        calls.clear()
        with pytest.raises(SystemExit) as ended:
            main([name, *arguments], prog_name="app")
        out, err = capsys.readouterr()
        return ended.value.code, out, err, [*calls, (None, None)][0]

    return run


def test_a_command_gets_its_config_with_every_default(command):
    code, out, err, called = command()

    assert (code, out, err) == (0, "", "")
    assert called == (Config(), frozenset())


def test_each_field_is_a_flag_with_dashes(command):
    *_, (config, given) = command("--batch-size", "4", "--limit", "9", "--window", "2KiB", "--loud")

    assert config == Config(batch_size=4, limit=9, window=2048, loud=True)
    assert given == {"batch_size", "limit", "window", "loud"}


def test_a_flag_given_its_default_value_counts_as_given(command):
    """Who resumes with `--batch-size 16` means it, even where 16 is the default."""
    *_, (_, given) = command("--batch-size", "16")

    assert given == {"batch_size"}


def test_each_field_comes_from_the_environment_and_the_command_line_wins(command, monkeypatch):
    monkeypatch.setenv("APP_TRAIN_BATCH_SIZE", "4")
    monkeypatch.setenv("APP_TRAIN_NAME", "brook")
    monkeypatch.setenv("APP_TRAIN_LOUD", "1")

    *_, (config, given) = command("--name", "stream")

    assert config == Config(name="stream", batch_size=4, loud=True)
    assert given == {"name", "batch_size", "loud"}


def test_an_empty_variable_is_as_good_as_none(command, monkeypatch):
    """That is what `HEADWATER_...=` in a compose file comes to."""
    monkeypatch.setenv("APP_TRAIN_BATCH_SIZE", "")

    *_, called = command()

    assert called == (Config(), frozenset())


def test_help_names_each_flag_once_with_its_default(command):
    code, out, _, _ = command("--help")

    flags = re.findall(r"^  (--[a-z-]+)", out, re.MULTILINE)
    assert code == 0
    assert "Train what there is." in out
    assert flags == ["--name", "--batch-size", "--limit", "--window", "--loud", "--help"]
    assert re.search(r"--batch-size INTEGER +images in a batch +\[default: 16\]", out)
    assert "[default: None]" not in out


def test_flags_that_a_config_inherits_come_after_its_own():
    """What several commands share is not what one looks for first."""

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Shared:
        key: str = flag("", "shared")

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Own(Shared):
        name: str = flag("", "own")

    command = click.command(options_of(Own)(lambda config, given: None))

    assert [parameter.name for parameter in command.params] == ["name", "key"]


def test_a_command_may_have_options_beside_its_config():
    called = []

    @click.command()
    @click.argument("place")
    @options_of(Config)
    def go(config, given, place):
        called.append((config.name, given, place))

    go(["there", "--name", "brook"], standalone_mode=False)

    assert called == [("brook", {"name"}, "there")]


@pytest.mark.parametrize(
    ("arguments", "variable", "line"),
    [
        (["--batch-size", "1"], "", "Error: --batch-size must be 2 or more, got 1"),
        ([], "1", "Error: --batch-size must be 2 or more, got 1 (from APP_TRAIN_BATCH_SIZE)"),
        (["--name", "broken"], "", "Error: the data is gone; bring it back"),
    ],
    ids=["a flag", "a variable", "the command"],
)
def test_an_expected_failure_is_one_line_and_exit_code_1(command, monkeypatch, arguments, variable, line):
    """Wherever it comes from, and however many lines its reason had."""
    monkeypatch.setenv("APP_TRAIN_BATCH_SIZE", variable)

    code, out, err, _ = command(*arguments)

    assert (code, out, err) == (1, "", line + "\n")


@pytest.mark.parametrize(
    "arguments",
    [["--batch-size", "two"], ["--window", "8"], ["--rate", "1"], ["--no-such-flag"]],
)
def test_a_command_line_that_cannot_be_read_is_exit_code_2(command, arguments):
    code, out, err, called = command(*arguments)

    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("Error: ")
    assert arguments[0] in line
    assert line.endswith("; see app train --help")
    assert called == (None, None)


@pytest.mark.parametrize(
    ("variable", "value", "line"),
    [
        ("APP_TRAIN_BATCH_SIZE", "two", "'two' is not a valid integer (from APP_TRAIN_BATCH_SIZE)"),
        ("APP_TRAIN_WINDOW", "8", "8MiB, got '8' (from APP_TRAIN_WINDOW)"),
    ],
)
def test_a_variable_that_cannot_be_read_is_named(command, monkeypatch, variable, value, line):
    """Nobody looks for it where no flag was given."""
    monkeypatch.setenv(variable, value)

    code, _, err, _ = command()

    assert code == 2
    assert err.startswith("Error: ")
    assert err.endswith(f"{line}; see app train --help\n")


@pytest.mark.parametrize("name", ["--quiet", "trian"])
def test_what_is_wrong_before_the_command_is_one_line_too(command, name):
    code, out, err, _ = command(name=name)

    assert (code, out) == (2, "")
    assert re.fullmatch(rf"Error: .*{name}.*; see app --help\n", err)


def test_ctrl_c_is_one_line_and_exit_code_130(command):
    """As a shell says it of a program that the signal has ended; click would say 1."""
    code, out, err, _ = command("--name", "slow")

    assert (code, out, err) == (130, "", "stopped by Ctrl-C\n")


def test_a_bug_keeps_its_traceback(command):
    """Only what a user can cause is put into one line."""
    with pytest.raises(ZeroDivisionError, match="a bug"):
        command("--name", "bug")


@pytest.mark.parametrize("program", [edge_cli.main, cloud_cli.main])
def test_every_flag_of_every_command_has_the_variable_of_its_name(program):
    """Click makes the variable's name from the parameter's."""
    commands, seen = [program], 0
    while commands:
        command = commands.pop()
        commands += getattr(command, "commands", {}).values()
        for option in command.params:
            if isinstance(option, click.Option) and option.name != "version":
                assert option.opts == ["--" + option.name.replace("_", "-")], command.name
                seen += 1
    assert seen > 10


@pytest.mark.parametrize("config_type", [TrainConfig, ServeConfig])
def test_the_real_commands_have_one_option_for_each_field(config_type):
    """One field, one flag, one default, and a line of help."""
    command = click.command(options_of(config_type)(lambda config, given: None))

    fields = {field.name: field for field in dataclasses.fields(config_type)}
    assert sorted(parameter.name for parameter in command.params) == sorted(fields)
    for parameter in command.params:
        field = fields[parameter.name]
        assert parameter.opts == ["--" + field.name.replace("_", "-")]
        assert parameter.default == field.default
        assert parameter.help
