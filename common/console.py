"""Where tables are printed."""

from rich.console import Console


def table_console(piped: int = 80) -> Console:
    """Return the terminal, or for a pipe, which has no width, one of `piped` columns."""
    console = Console()
    return console if console.is_terminal else Console(width=piped)
