"""Is the emulated link what it says? Judged by a TCP relay, which knows nothing of gRPC, and by the kernel.

python -m benchmarks.link [--quick] [--out FILE]

The rate over any five seconds after the first two, in both directions, and how much of it is used; the time
of one transfer against that of the kernel's token bucket filter (tbf) on a veth pair, which needs root; the
bytes that a run counts against those that the relay saw. With --out, cases that the file holds already are
left out.
"""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks import alone
from benchmarks.processes import cloud_at, run_edge, worker_env
from benchmarks.relay import Relay, rates_bps
from benchmarks.report import Report, benchmark
from benchmarks.stream import REPLY_S, sink_at
from common.units import parse_rate

RATE_BAR, TIME_BAR, BYTES_BAR, UTILISATION_BAR = 0.03, 0.03, 0.02, 0.97
WINDOW_S, SKIP_S = 5.0, 2.0
# What a sender and a receiver of batches are given.
STREAM_S, TRANSFER_S = 20.0, 15.0

# Runs that the link holds up, each some 20 s long: wide, so that few images will do; of many batches, as the
# first one's way to the link and the last one's from it count.
DAEMONS = {
    "1mbit": "--bits 32 --train-limit 160 --batch-size 16",
    "5mbit": "--bits 32 --train-limit 800",
    "20mbit": "--bits 32 --train-limit 600 --stem cifar --batch-size 16",
}
# The same with a sink in the cloud's place, as no cloud here trains fast enough for the second.
TO_A_SINK = {
    "10mbit": "--bits 32 --train-limit 300 --stem cifar --batch-size 10",
    "100mbit": "--bits 32 --train-limit 1500 --stem cifar --batch-size 20 --precision bfloat16",
}
LINK_BOUND = (
    "--model resnet18 --split layer1.0 --dataset synthetic --test-limit 100 --epochs 1 --batch-size 64"
)
# Before the first kilobyte and after this share of all bytes the link has nothing to carry at times.
BUSY_UNTIL = 0.95

# What tbf and an interface count beside the payload: 66 bytes of TCP, IP and Ethernet for each 1448.
ON_ETHERNET = (1448 + 66) / 1448
ADDRESSES = {"veth-a": "10.77.0.1", "veth-b": "10.77.0.2"}


def deviation(pieces: Sequence[tuple[float, int]], rate_bps: float) -> float:
    """Return how far, as a share, the rate strays over any five seconds after the first two.

    Raises:
        ClickException: the transfer was too short to tell.
    """
    passed = list(itertools.accumulate(nbytes for _, nbytes in pieces))
    busy = [
        piece for piece, sofar in zip(pieces, passed, strict=True) if 1000 < sofar < BUSY_UNTIL * passed[-1]
    ]
    rates = rates_bps(busy, WINDOW_S, SKIP_S)
    if not rates:
        raise click.ClickException(f"the transfer ended within {WINDOW_S + SKIP_S:g} s")
    return max(abs(rate / rate_bps - 1) for rate in rates)


# -------------------------------------------------------------------- a relay as judge


@contextlib.contextmanager
def cloud_peer(run_dir: Path) -> Iterator[str]:
    """Run a cloud for the length of a block; yields its address."""
    with cloud_at(run_dir) as cloud:
        yield cloud.address


def daemons(report: Report, rate: str, options: str, to: str = "cloud-worker") -> None:
    """Train over an emulated link with a relay in the midst of it, and a cloud or a sink behind it."""
    arguments = f"{LINK_BOUND} {options} --link-rate {rate}"
    case = {"command": f"edge-worker train {arguments}", "to": to}
    if report.is_done("bytes_down_off", case):
        return
    with tempfile.TemporaryDirectory() as work:
        peer = cloud_peer(Path(work) / "cloud") if to == "cloud-worker" else alone.sink_at()
        with peer as address, Relay(address) as relay:
            done = run_edge(relay.address, Path(work) / "edge", *arguments.split())
        if done.returncode:
            raise click.ClickException(f"edge-worker ended with {done.returncode}: {done.stderr}")
        summary = json.loads((Path(work) / "edge" / "summary.json").read_text())
    if not report.quick:
        used = summary["link_utilisation"]
        report.figure("link_utilisation", case, used, "share", at_least=UTILISATION_BAR)
        strayed = deviation(relay.up.timeline(), parse_rate(rate))
        report.figure("uplink_rate_deviation", case, strayed, "share", at_most=RATE_BAR)
    # Down there are some tens of kilobytes in all, so that a few pings count.
    for way, counted, seen, bar in (
        ("up", summary["bytes_up"] + summary["eval_bytes_up"], relay.up.total, BYTES_BAR),
        ("down", summary["bytes_down"], relay.down.total, None),
    ):
        report.figure(f"bytes_{way}_counted", case, counted, "bytes")
        report.figure(f"bytes_{way}_relay", case, seen, "bytes")
        report.figure(f"bytes_{way}_off", case, abs(counted / seen - 1), "share", at_most=bar)


def uplink(report: Report, rate: str, seconds: float) -> None:
    """Send recorded batches through the shaper and the relay."""
    case = {"rate": rate, "sender": "recorded batches"}
    if report.is_done("uplink_rate_deviation", case):
        return
    with sink_at() as address, Relay(address) as relay:
        sent = stream("send", "--to", relay.address, "--rate", rate, "--seconds", str(seconds), "--shape")
    used = 8 * sent["wire_bytes"] / (parse_rate(rate) * sent["seconds"])
    report.figure("link_utilisation", case, used, "share", at_least=UTILISATION_BAR)
    strayed = deviation(relay.up.timeline(), parse_rate(rate))
    report.figure("uplink_rate_deviation", case, strayed, "share", at_most=RATE_BAR)


def downlink(report: Report, rate: str, seconds: float) -> None:
    """Receive replies without end through the relay and the shaper."""
    reply_bytes = int(parse_rate(rate) / 8 * REPLY_S)
    case = {"rate": rate, "sender": f"replies of {reply_bytes} bytes"}
    if report.is_done("downlink_rate_deviation", case):
        return
    with sink_at(reply_bytes=reply_bytes) as address, Relay(address) as relay:
        stream("receive", "--from", relay.address, "--rate", rate, "--seconds", str(seconds))
        pieces = relay.down.timeline()
    strayed = deviation(pieces, parse_rate(rate))
    report.figure("downlink_rate_deviation", case, strayed, "share", at_most=RATE_BAR)


def stream(*arguments: str, within: Sequence[str] = ()) -> dict[str, Any]:
    """Run one end of a stream of batches to its end; return what it prints."""
    command = [*within, sys.executable, "-m", "benchmarks.stream", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=worker_env())
    if done.returncode:
        raise click.ClickException(f"benchmarks.stream ended with {done.returncode}: {done.stderr}")
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed


# -------------------------------------------------------------------- the kernel as judge


class NoKernelError(Exception):
    """This machine does not let us make namespaces, or has no tbf."""


def as_root(*command: str) -> None:
    """Run a tool of iproute2; raises NoKernelError where it is absent or refuses."""
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise NoKernelError(f"there is no {command[0]}") from error
    except subprocess.CalledProcessError as error:
        raise NoKernelError(f"{' '.join(command)}: {error.stderr.strip()}") from error


@contextlib.contextmanager
def namespaces() -> Iterator[dict[str, str]]:
    """Make two network namespaces joined by a veth pair without offloads; yields their names by device."""
    # Named after this process: another one may be measuring beside it.
    names = {device: f"headwater-{os.getpid()}-{device}" for device in ADDRESSES}
    with contextlib.ExitStack() as stack:
        for name in names.values():
            # Before it is made: Ctrl-C may come in between, and deleting what is not there harms nobody.
            stack.callback(subprocess.run, ["ip", "netns", "delete", name], capture_output=True)
            as_root("ip", "netns", "add", name)
        (near, here), (far, there) = names.items()
        ends = ["name", near, "netns", here, "type", "veth", "peer", "name", far, "netns", there]
        as_root("ip", "link", "add", *ends)
        for device, name in names.items():
            inside = ("ip", "-n", name)
            as_root(*inside, "address", "add", f"{ADDRESSES[device]}/24", "dev", device)
            # One packet on the wire for one that tbf counts.
            as_root(*inside, "link", "set", "dev", device, "gso_max_segs", "1", "up")
        yield names


def against_kernel(report: Report, rate: str, seconds: float) -> None:
    """Time one transfer twice: shaped by us, and shaped by tbf."""
    case = {"rate": rate, "sender": "recorded batches"}
    if report.is_done("time_off_tbf", case):
        return
    kernel_rate = f"{round(parse_rate(rate) * ON_ETHERNET)}bit"
    with namespaces() as names:
        near, far = (("ip", "netns", "exec", name) for name in names.values())
        with sink_at(f"{ADDRESSES['veth-b']}:0", within=far) as address:
            transfer = ("send", "--to", address, "--rate", rate, "--seconds", str(seconds))
            ours = stream(*transfer, "--shape", within=near)
            tbf = f"tbf rate {kernel_rate} burst 20kb latency 200ms"
            as_root(*near, "tc", "qdisc", "add", "dev", "veth-a", "root", *tbf.split())
            kernels = stream(*transfer, within=near)
    report.figure("transfer_s", {**case, "shaped_by": "us"}, ours["seconds"], "s")
    report.figure("transfer_s", {**case, "shaped_by": tbf}, kernels["seconds"], "s")
    off = abs(ours["seconds"] / kernels["seconds"] - 1)
    report.figure("time_off_tbf", case, off, "share", at_most=TIME_BAR)


@benchmark
def main(report: Report) -> None:
    """Rates, times and bytes of the emulated link."""
    # As Ctrl-C does, so that whoever ends this process also ends what it started.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if report.quick:
        daemons(report, "100mbit", "--bits 8 --train-limit 500")
        uplink(report, "20mbit", 8.0)
        return
    for rate, options in DAEMONS.items():
        daemons(report, rate, options)
    for rate, options in TO_A_SINK.items():
        daemons(report, rate, options, to="a sink")
    for rate in ("10mbit", "100mbit"):
        uplink(report, rate, STREAM_S)
    for rate in ("1mbit", "5mbit", "20mbit", "100mbit"):
        downlink(report, rate, STREAM_S)
    try:
        for rate in ("5mbit", "20mbit"):
            against_kernel(report, rate, TRANSFER_S)
    except NoKernelError as error:
        click.echo(f"left out: the comparison with the kernel's tbf ({error})", err=True)


if __name__ == "__main__":
    main()
