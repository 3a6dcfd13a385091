"""Is the emulated link what it says? Judged by a TCP relay, which knows nothing of gRPC, and by the kernel.

python -m benchmarks.link [--quick] [--out FILE]

The rate over any five seconds after the first two, in both directions; the time of one transfer against that
of the kernel's token bucket filter (tbf) on a veth pair, which needs root; and the bytes that a run counts
against those that the relay saw.
"""

import contextlib
import itertools
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import grpc

from benchmarks.processes import cloud_at, run_edge, worker_env
from benchmarks.relay import Relay, rates_bps
from benchmarks.report import Report, benchmark
from benchmarks.stream import sink_at, some_hello
from common.link.framing import wire_bytes
from common.link.interceptors import LinkInterceptor
from common.units import parse_rate
from common.wire import convert
from common.wire.generated import training_pb2_grpc as pb_grpc

RATE_BAR, TIME_BAR, BYTES_BAR = 0.03, 0.03, 0.02
WINDOW_S, SKIP_S = 5.0, 2.0
REPLY_BYTES = 2000

# Runs that the link holds up, each some 20 s long: the network, the split point, and the images it takes.
DAEMONS = {
    "1mbit": "--bits 4 --train-limit 1600",
    "5mbit": "--bits 8 --train-limit 4000",
    "20mbit": "--bits 8 --train-limit 1300 --stem cifar",
}
LINK_BOUND = (
    "--model resnet18 --split layer1.0 --dataset synthetic --test-limit 100 --epochs 1 --batch-size 64"
)
# Before the first kilobyte and after this share of all bytes the link has nothing to carry at times.
BUSY_UNTIL = 0.95

# What tbf and an interface count beside the payload: 66 bytes of TCP, IP and Ethernet for each 1448.
ON_ETHERNET = (1448 + 66) / 1448


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


def daemons(report: Report, rate: str, options: str) -> None:
    """Train over an emulated link with a relay in the midst of it."""
    arguments = f"{LINK_BOUND} {options} --link-rate {rate}"
    with tempfile.TemporaryDirectory() as work, cloud_at(Path(work) / "cloud") as cloud:
        with Relay(cloud.address) as relay:
            done = run_edge(relay.address, Path(work) / "edge", *arguments.split())
        if done.returncode:
            raise click.ClickException(f"edge-worker ended with {done.returncode}: {done.stderr}")
        summary = json.loads((Path(work) / "edge" / "summary.json").read_text())
    case: dict[str, Any] = {"command": f"edge-worker train {arguments}"}
    if not report.quick:
        strayed = deviation(relay.up.timeline(), parse_rate(rate))
        report.figure("uplink_rate_deviation", case, strayed, "share", at_most=RATE_BAR)
    counted, seen = summary["bytes_up"] + summary["eval_bytes_up"], relay.up.total
    case = {**case, "counted": counted, "relay": seen}
    report.figure("bytes_up_off", case, abs(counted / seen - 1), "share", at_most=BYTES_BAR)


def send(to: str, rate: str, seconds: float, shape: bool, within: Sequence[str] = ()) -> dict[str, Any]:
    """Run the sender of recorded batches; return what it prints."""
    command = [*within, sys.executable, "-m", "benchmarks.stream", "send", "--to", to, "--rate", rate]
    command += ["--seconds", str(seconds), *(["--shape"] if shape else [])]
    done = subprocess.run(command, capture_output=True, text=True, env=worker_env())
    if done.returncode:
        raise click.ClickException(f"the sender ended with {done.returncode}: {done.stderr}")
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed


def uplink(report: Report, rate: str, seconds: float) -> None:
    """Send recorded batches through the shaper and the relay."""
    with sink_at() as address, Relay(address) as relay:
        send(relay.address, rate, seconds, shape=True)
    strayed = deviation(relay.up.timeline(), parse_rate(rate))
    case = {"rate": rate, "sender": "recorded batches"}
    report.figure("uplink_rate_deviation", case, strayed, "share", at_most=RATE_BAR)


def downlink(report: Report, rate: str, seconds: float) -> None:
    """Receive replies without end through the shaper, judged by when each of them is handed over.

    A relay cannot judge here: gRPC takes what arrives ahead of its reader.
    """
    rate_bps = parse_rate(rate)
    pieces: list[tuple[float, int]] = []
    with sink_at(reply_bytes=REPLY_BYTES) as address:
        link = LinkInterceptor(None, rate_bps, 0.0)
        hold = threading.Event()

        def requests() -> Iterator[Any]:
            yield convert.request_to_proto(some_hello())
            hold.wait()

        with grpc.insecure_channel(address) as channel:
            stub = pb_grpc.TrainingStub(grpc.intercept_channel(channel, link))  # type: ignore[no-untyped-call]
            replies = stub.Train(requests())
            for reply in replies:
                pieces.append((time.monotonic(), wire_bytes(reply.ByteSize())))
                if pieces[-1][0] - pieces[0][0] > seconds:
                    break
            hold.set()
            replies.cancel()
    strayed = deviation(pieces, rate_bps)
    case = {"rate": rate, "sender": f"replies of {REPLY_BYTES} bytes"}
    report.figure("downlink_rate_deviation", case, strayed, "share", at_most=RATE_BAR)


# -------------------------------------------------------------------- the kernel as judge


def ip(*arguments: str) -> None:
    """Run iproute2; raises CalledProcessError where it refuses."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@contextlib.contextmanager
def namespaces() -> Iterator[tuple[str, str]]:
    """Make two network namespaces joined by a veth pair, 10.77.0.1 and 10.77.0.2, without offloads."""
    names = ("headwater-a", "headwater-b")
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", "veth-a", "netns", names[0], "type", "veth", "peer", "veth-b", "netns", names[1])
        for name, device, address in zip(
            names, ("veth-a", "veth-b"), ("10.77.0.1", "10.77.0.2"), strict=True
        ):
            ip("-n", name, "address", "add", f"{address}/24", "dev", device)
            # One packet on the wire for one that tbf counts.
            ip("-n", name, "link", "set", "dev", device, "gso_max_segs", "1")
            ip("-n", name, "link", "set", device, "up")
        yield names
    finally:
        for name in names:
            with contextlib.suppress(subprocess.CalledProcessError):
                ip("netns", "delete", name)


def against_kernel(report: Report, rate: str, seconds: float) -> None:
    """Time one transfer twice: shaped by us, and shaped by tbf."""
    try:
        with namespaces() as (near, far):
            inside = ("ip", "netns", "exec", near)
            with sink_at("10.77.0.2:0", within=("ip", "netns", "exec", far)) as address:
                ours = send(address, rate, seconds, shape=True, within=inside)
                kernel_rate = f"{round(parse_rate(rate) * ON_ETHERNET)}bit"
                tbf = f"tbf rate {kernel_rate} burst 20kb latency 200ms"
                command = [*inside, "tc", "qdisc", "add", "dev", "veth-a", "root", *tbf.split()]
                subprocess.run(command, check=True, capture_output=True, text=True)
                kernels = send(address, rate, seconds, shape=False, within=inside)
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        reason = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else error
        click.echo(f"left out: no network namespaces with tbf here ({reason})", err=True)
        return
    case = {"rate": rate, "ours_s": ours["seconds"], "tbf_s": kernels["seconds"]}
    off = abs(ours["seconds"] / kernels["seconds"] - 1)
    report.figure("time_off_tbf", case, off, "share", at_most=TIME_BAR)


@benchmark
def main(report: Report) -> None:
    """Rates, times and bytes of the emulated link."""
    if report.quick:
        daemons(report, "100mbit", "--bits 8 --train-limit 500")
        uplink(report, "20mbit", 8.0)
        return
    for rate, options in DAEMONS.items():
        daemons(report, rate, options)
    uplink(report, "100mbit", 20.0)
    for rate in ("1mbit", "5mbit", "20mbit", "100mbit"):
        downlink(report, rate, 20.0)
    for rate in ("5mbit", "20mbit"):
        against_kernel(report, rate, 15.0)


if __name__ == "__main__":
    main()
