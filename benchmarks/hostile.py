"""Does a cloud stand what no edge would say? Malformed messages on a real server, honest runs beside them.

python -m benchmarks.hostile [--messages 20000] [--seed 0] [--quick] [--out FILE]

Each message has a stream or a call of its own. They come only while an honest run is under way; when it ends
before they do, another one begins. Each must come to the same bits as the run by itself. Beside the messages
come garbage on the port, connections that say nothing, and streams that stall.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import click

from benchmarks.attacks.attacker import DRAWN_PER_PASS, Attacker, Tally
from benchmarks.attacks.honest import TOKEN, Honest, secret
from benchmarks.attacks.noise import Noise
from benchmarks.attacks.peer import smallest_run
from benchmarks.attacks.seen import Seen
from benchmarks.processes import cloud_at
from benchmarks.report import Report, benchmark

ATTACKER_TOKEN = "a" * 32
IDLE_TIMEOUT = "10s"
LINK_RATE = "60kbit"  # slow enough that there is time for the messages
SLOPE_BAR = 100.0
# Has glibc give what is freed back to the machine at once, so that what is measured is what the server holds.
# By itself it keeps some ten megabytes, which come and go and hide a growth of a hundred bytes a message.
TUNABLES = ("tcache_count=0", "mmap_threshold=65536", "trim_threshold=65536")
FREED_AT_ONCE = {"GLIBC_TUNABLES": ":".join(f"glibc.malloc.{each}" for each in TUNABLES)}


class Scale(NamedTuple):
    """How much of it.

    Attributes:
        attackers: how many send at once.
        samples: of the server's memory.
        epochs: of each honest run.
        images: of each epoch. One run is to last as long as the messages: another session takes other memory.
        long: also the noise that takes a minute, and all of it for as long as messages are sent.
    """

    attackers: int = 6
    samples: int = 80
    epochs: int = 2
    images: int = 1024
    long: bool = True

    @property
    def run(self) -> tuple[str, ...]:
        """Flags of an honest run."""
        return ("--epochs", str(self.epochs), "--train-limit", str(self.images))


QUICK_MESSAGES, QUICK = 600, Scale(attackers=2, samples=4, epochs=1, images=256, long=False)


class Attacked(NamedTuple):
    """An attack: what was seen of it, and its two parts."""

    seen: Seen
    tally: Tally
    noise: Noise


def attack(work: Path, messages: int, seed: int, scale: Scale) -> Attacked:
    """Send `messages` and make noise beside honest runs.

    Args:
        work: where server and runs live.
        messages: how many to send.
        seed: of what is drawn.
        scale: how much of all that.
    """
    seen, tally, run = Seen(), Tally(messages), smallest_run()
    work.mkdir()
    tokens = secret(work / "tokens", f"honest {TOKEN}\nattacker {ATTACKER_TOKEN}")
    limits = ("--tokens", str(tokens), "--idle-timeout", IDLE_TIMEOUT)
    with (
        cloud_at(work / "cloud", *limits, env=FREED_AT_ONCE) as cloud,
        ThreadPoolExecutor(scale.attackers + 1) as threads,
    ):
        settle = Attacker(cloud.address, run, ATTACKER_TOKEN, seed).settle
        honest = Honest(cloud, work, settle, *scale.run, "--link-rate", LINK_RATE)
        noise = Noise(cloud.address, run, ATTACKER_TOKEN, seed)

        def make_noise() -> None:
            noise.make(established=scale.long)
            while scale.long and not tally.is_done:
                noise.make(established=True)

        pending = [threads.submit(make_noise)]
        for number in range(scale.attackers):
            attacker = Attacker(cloud.address, run, ATTACKER_TOKEN, seed + 1 + number)
            first = DRAWN_PER_PASS * number // scale.attackers
            pending.append(threads.submit(attacker.attack, tally, honest.session, first))
        try:
            # None of them ends before the others, unless something fails here.
            while not tally.is_done and not any(each.done() for each in pending[1:]):
                honest.run(tally, seen, scale.samples)
        finally:
            tally.stop()
        for each in pending:
            each.result()
        seen.exit_code = cloud.stop() if cloud.process.poll() is None else cloud.process.returncode
    seen.read_log(cloud.log)
    return Attacked(seen, tally, noise)


def alone(work: Path, scale: Scale) -> dict[str, Any]:
    """Return what the honest run comes to by itself."""
    work.mkdir()
    tokens = secret(work / "tokens", f"honest {TOKEN}")
    seen = Seen()
    with cloud_at(work / "cloud", "--tokens", str(tokens)) as cloud:
        Honest(cloud, work, lambda: None, *scale.run).run(Tally(0), seen, samples=0)
    return seen.outcomes[0]


@benchmark
@click.option("--messages", default=20_000, show_default=True, help="How many malformed ones.")
@click.option("--seed", default=0, show_default=True, help="Of what is drawn.")
def main(report: Report, messages: int, seed: int) -> None:
    """What a server makes of malformed messages, and what they do to it and to an honest run."""
    messages, scale = (min(messages, QUICK_MESSAGES), QUICK) if report.quick else (messages, Scale())
    with TemporaryDirectory() as scratch:
        untouched = alone(Path(scratch, "alone"), scale)
        seen, tally, noise = attack(Path(scratch, "beside"), messages, seed, scale)
    case = {"messages": messages, "seed": seed}
    for status, count in sorted((tally.statuses + noise.tally.statuses).items()):
        report.figure("answers", {**case, "status": status}, count, "messages")
    for line in (*tally.wrong, *noise.tally.wrong, *noise.left_open, *seen.unclean):
        click.echo(f"wrong: {line[:500]}", err=True)
    report.figure("messages", case, tally.sent, "messages", at_least=messages)
    report.figure("messages_rate", case, tally.sent / seen.seconds, "messages/s")
    report.figure("wrong_answers", case, len(tally.wrong), "messages", at_most=0)
    report.figure("connections", case, noise.connections, "connections")
    report.figure("connections_left_open", case, len(noise.left_open), "connections", at_most=0)
    report.figure("stalled_streams", case, noise.tally.sent, "streams")
    report.figure("wrong_ends_of_stalled_streams", case, len(noise.tally.wrong), "streams", at_most=0)
    report.figure("memory_slope", case, seen.slope(), "bytes/message", at_most=SLOPE_BAR)
    report.figure("log_lines", case, seen.lines / tally.sent, "lines/message")
    missing = abs(seen.refusals - tally.refused - noise.tally.refused - len(seen.memory))
    report.figure("refusals_without_one_line", case, missing, "lines", at_most=0)
    report.figure("unclean_log_lines", case, len(seen.unclean), "lines", at_most=0)
    differ = sum(each != untouched for each in seen.outcomes)
    report.figure("honest_runs", case, len(seen.outcomes), "runs", at_least=1)
    report.figure("honest_runs_that_differ", case, differ, "runs", at_most=0)
    report.figure("honest_runs_interrupted", case, seen.interruptions, "times", at_most=0)
    report.figure("server_exit_code", case, float(seen.exit_code or 0), "", at_least=0, at_most=0)


if __name__ == "__main__":
    main()
