"""What is seen of a server under attack: its memory, its log, and what honest runs come to."""

import re
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any

_LINE = re.compile(r"\d\d:\d\d:\d\d (DEBUG|INFO|WARNING|ERROR) .+")
_REFUSAL = " ended a call of "
_LEFT = " ended a call of one who has left: "  # gRPC has refused it, or its caller has given up


@dataclass(slots=True)
class Seen:
    """What was seen of one server.

    Attributes:
        outcomes: of the honest runs.
        interruptions: times that one of them lost its stream, and warnings that it gave.
        memory: messages answered, and the server's bytes in memory then, with no message under way
            and after it has refused one network, for which its log has one line.
        seconds: in which messages were sent.
        exit_code: of the server, after SIGTERM.
        refusals: lines of its log that tell of one.
        lines: all of them.
        unclean: those that are no event, such as a traceback's, or that hold a control character.
    """

    outcomes: list[dict[str, Any]] = field(default_factory=list)
    interruptions: int = 0
    memory: list[tuple[int, int]] = field(default_factory=list)
    seconds: float = 0.0
    exit_code: int | None = None
    refusals: int = 0
    lines: int = 0
    unclean: list[str] = field(default_factory=list)

    def read_log(self, log: Path) -> None:
        """Take in what the server wrote."""
        lines = log.read_text(errors="replace").split("\n")[:-1]
        self.lines = len(lines)
        self.refusals = sum(_REFUSAL in line and _LEFT not in line for line in lines)
        self.unclean = [line for line in lines if not (_LINE.fullmatch(line) and line.isprintable())]

    def slope(self) -> float:
        """Return the growth of memory over the second half of the messages, bytes a message.

        The median of the slopes between any two samples (Theil and Sen) does not follow single ones.
        """
        half = [each for each in self.memory if each[0] >= self.memory[-1][0] / 2]
        return median((b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(half, 2) if b[0] > a[0])


def memory_bytes(process_id: int) -> int:
    """Return what a process has in memory, or swapped out, that is its own.

    Without the pages of files, such as torch's libraries, which come and go as the machine's memory fills.
    """
    lines = Path(f"/proc/{process_id}/status").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon:", "VmSwap:")))
