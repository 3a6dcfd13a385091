"""A real browser without a window or a network, and what a page shows in it."""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome-headless-shell")


def find_browser() -> str | None:
    """Return the path of a Chromium, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def dump_dom(browser: str, page: Path, profile: Path) -> str:
    """Return the document that the browser makes of `page`; every host is unreachable meanwhile."""
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --dump-dom "
        "--virtual-time-budget=2000"
    ).split()
    offline = "--host-resolver-rules=MAP * ~NOTFOUND"
    done = subprocess.run(
        [browser, *flags, offline, f"--user-data-dir={profile}", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout


def cells_in(page: str) -> list[list[Any]]:
    """Return the values behind a report's table, row by row, but for rows that failed."""
    table = page[page.index('<table id="cells">') :]
    found = []
    for row in table[: table.index("</table>")].split("<tr")[2:]:
        values = re.findall(r'data-value="([^"]*)"', row)
        if values:
            found.append([json.loads(unescape(value)) for value in values])
    return found


def figures_of(page: str) -> Any:
    """Return the JSON that a report's page carries."""
    start = page.index('id="data">') + len('id="data">')
    return json.loads(page[start : page.index("</script>", start)])
