"""One field of a config dataclass is one flag, one default, one environment variable, one line of help."""

import dataclasses
import signal
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from common.errors import ConfigError, HeadwaterError
from common.variables import named

T = TypeVar("T")

# Both daemons have this flag, and `common.training.use_threads` keeps what it says.
THREADS_HELP = "CPU threads of torch  [default: its own choice, or half of it for a cloud on loopback]"


def flag(default: Any, help: str, **option: Any) -> Any:
    """Declare a dataclass field that is also a command line flag; `option` goes to `click.option`."""
    return dataclasses.field(default=default, metadata={"help": help, **option})


def options_of(
    config_type: type[T], without: Collection[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Turn each field of `config_type` into a click option.

    The command is called with the config and with the names of the fields that the user gave, on the command
    line or in the environment, as opposed to those that took their default; other options of its own come as
    they are. Flags of the type itself come first, then those of the types it is derived from. Fields named in
    `without` become no option, and take their default.
    """
    own = config_type.__annotations__
    wanted = [field for field in dataclasses.fields(config_type) if field.name not in without]  # type: ignore[arg-type]
    options = sorted(wanted, key=lambda field: field.name not in own)

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        def run(**values: Any) -> None:
            context = click.get_current_context()
            defaulted = (click.core.ParameterSource.DEFAULT, click.core.ParameterSource.DEFAULT_MAP)
            config = {option.name: values.pop(option.name) for option in options}
            given = {name for name in config if context.get_parameter_source(name) not in defaulted}
            try:
                command(config_type(**config), frozenset(given), **values)
            except ConfigError as error:
                raise ConfigError(f"{error}{_variable_behind(str(error), context)}") from error

        run.__doc__, run.__name__ = command.__doc__, command.__name__
        for field in reversed(options):
            name = "--" + field.name.replace("_", "-")
            option = {"show_default": field.default is not None, **field.metadata}
            run = click.option(name, field.name, default=field.default, **option)(run)
        return run

    return decorate


def _variable_behind(message: str, context: click.Context) -> str:
    """Return " (from VARIABLE)" where a message is about a flag that the environment gave."""
    flags = {option: parameter for parameter in context.command.params for option in parameter.opts}
    return named(context, flags.get(message.partition(" ")[0]))


class Commands(click.Group):
    """A group whose expected failures end in one line on stderr.

    The exit code is 2 where the command line is wrong, 130 after Ctrl-C, 143 after SIGTERM, else 1.
    """

    def make_context(self, *arguments: Any, **options: Any) -> click.Context:
        """Read the command line up to the command's name."""
        try:
            return super().make_context(*arguments, **options)
        except click.UsageError as error:
            raise _in_one_line(error) from error

    def invoke(self, context: click.Context) -> Any:
        """Run the command; a bug still shows its traceback."""
        try:
            with _sigterm_raises():
                return super().invoke(context)
        except KeyboardInterrupt as stopped:  # where the command does not take the signal itself
            number = signal.SIGTERM if isinstance(stopped, _Terminated) else signal.SIGINT
            click.echo(f"stopped by {'SIGTERM' if number == signal.SIGTERM else 'Ctrl-C'}", err=True)
            raise click.exceptions.Exit(128 + number) from None
        except click.UsageError as error:
            raise _in_one_line(error) from error
        except HeadwaterError as error:
            raise click.ClickException(" ".join(str(error).split())) from error


class _Terminated(KeyboardInterrupt):
    """SIGTERM, where nothing has taken it yet: as it imports torch, or reads its data."""


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    def handle(number: int, frame: object) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _in_one_line(error: click.UsageError) -> click.UsageError:
    """Return the error without the lines on usage, which `--help` has."""
    if error.ctx is None or isinstance(error, _HELP_IS_SHOWN):
        return error
    parameter = error.param if isinstance(error, click.BadParameter) else None
    said = " ".join(error.format_message().split()).rstrip(".") + named(error.ctx, parameter)
    return click.UsageError(f"{said}; see {error.ctx.command_path} --help")


# A group without a command shows its help, which newer releases of click call an error.
_HELP_IS_SHOWN: tuple[type[Exception], ...] = tuple(
    filter(None, [getattr(click.exceptions, "NoArgsIsHelpError", None)])
)
