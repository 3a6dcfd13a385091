"""Which environment variable a setting came from, for whoever has to be told that it is wrong."""

import click
from click.core import ParameterSource


def named(context: click.Context | None, parameter: click.Parameter | None) -> str:
    """Return " (from VARIABLE)" where the environment gave this parameter, and "" where it did not."""
    if context is None or parameter is None or parameter.name is None or not context.auto_envvar_prefix:
        return ""
    if context.get_parameter_source(parameter.name) is not ParameterSource.ENVIRONMENT:
        return ""
    return f" (from {context.auto_envvar_prefix}_{parameter.name.upper()})"
