"""Where tables are printed."""

from rich.console import Console


def table_console() -> Console:
    """Return the terminal, or for a pipe, which has no width, one that is wide enough for any row."""
    console = Console()
    return console if console.is_terminal else Console(width=160)
