"""What a terminal shows while a run goes on."""

import os
import pty
import signal
import subprocess
import threading

from benchmarks.processes import edge_command, lines_of, wait_for, worker_env
from tests.integration.conftest import SMALL_RUN


class Terminal:
    """A pseudo-terminal with a process on it."""

    def __init__(self, command):
        self._screen, inside = pty.openpty()
        self._shown = b""
        self.process = subprocess.Popen(
            command, stdin=inside, stdout=inside, stderr=inside, env={**worker_env(), "TERM": "xterm"}
        )
        os.close(inside)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        try:
            while piece := os.read(self._screen, 65536):
                self._shown += piece
        except OSError:  # Linux's way to say that nobody is left on the other side
            pass

    def text(self):
        """What was written to it so far, escape sequences included."""
        return self._shown.decode(errors="replace")

    def wait(self):
        """Wait for the process; returns its exit code."""
        code = self.process.wait(120)
        self._reader.join()
        os.close(self._screen)
        return code


def test_terminal_shows_a_live_panel_and_ctrl_c_says_how_to_go_on(clouds, tmp_path):
    """The panel is redrawn in place; a line about the lost cloud appears above it, not within."""
    cloud, run_dir = clouds(), tmp_path / "edge"
    terminal = Terminal(edge_command(cloud.address, run_dir, *SMALL_RUN, "--epochs", "50"))
    wait_for(lambda: lines_of(run_dir) > 30, "the first epochs")
    cloud.kill()
    wait_for(lambda: "lost the cloud" in terminal.text(), "the news that the cloud is gone")

    terminal.process.send_signal(signal.SIGINT)

    assert terminal.wait() == 130
    text = terminal.text()
    for name in ("epoch", "images/s", "loss edge", "loss cloud", "link", "sent", "left"):
        assert name in text
    assert "\x1b[1A" in text  # the cursor goes up, to draw the panel anew
    assert f"go on with: edge-worker train --run-dir {run_dir}" in text
    assert "Traceback" not in text
