"""How fast is the codec on one core, and how does it compare with what other systems send?

python -m benchmarks.codec [--quick] [--data-dir DIR] [--out FILE]

Megabytes of float32 activations encoded and decoded in a second, with and without zstd, at 8, 4 and 2 bits,
beside Hivemind's 8 bits and NVFlare's float16: the same tensors, of trained fronts, in the same run, taken in
turn. Each speed is the median of the rounds, each ratio that of two speeds. The rivals are given the values
in the order of N, C, H, W, which suits them; ours are channels_last, as the front leaves them.
"""

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.activations import NETWORKS, trained_activations
from benchmarks.report import Report, benchmark, data_dir
from benchmarks.rivals import Rival, hivemind_8bit, nvflare_fp16
from common.codec import Packed, decode, encode
from common.codec.quantise import dequantise, quantise
from common.memory import tune_malloc

CPU = torch.device("cpu")
ROUNDS, QUICK_ROUNDS = 31, 3
# Against Hivemind's encode: at 8 bits without compression, at 4 bits with it.
PLAIN_BAR, PACKED_BAR = 5.0, 3.0
BITS = (8, 4, 2)
BESIDE = "8 bits and zstd"  # what is compared in bytes and error with Hivemind


def speeds(work: dict[str, Callable[[], object]], megabytes: float, rounds: int) -> dict[str, float]:
    """Time each piece of work in turn, several rounds; return MB/s by name."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, call in work.items():
            started = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - started)
    return {name: megabytes / statistics.median(each) for name, each in seconds.items()}


def ours(x: Tensor, bits: int) -> tuple[dict[str, Callable[[], object]], Packed]:
    """Return what there is to time at this width, and the encoded activations."""
    codes, low, scale = quantise(x, bits)
    packed = encode(x, bits)
    return {
        f"{bits} bits, encode": lambda: quantise(x, bits),
        f"{bits} bits, decode": lambda: dequantise(codes, bits, packed.shape, low, scale),
        f"{bits} bits and zstd, encode": lambda: encode(x, bits),
        f"{bits} bits and zstd, decode": lambda: decode(packed, CPU),
    }, packed


def name_of(rival: Rival) -> str:
    """Return another system's path as the figures name it, with whose code it is."""
    return f"{rival.name} ({rival.source})"


def measure(report: Report, case: dict[str, Any], x: Tensor) -> None:
    """Print the figures of one network's activations."""
    # Only now: the training set its own. Nobody's memory is to be cleared anew each time.
    tune_malloc(largest_in_heap=32 << 20)
    plain = x.contiguous()
    work: dict[str, Callable[[], object]] = {}
    sizes: dict[str, tuple[int, float]] = {}
    for bits in BITS:
        calls, packed = ours(x, bits)
        work |= calls
        size = len(packed.data) + packed.low.nbytes + packed.scale.nbytes
        sizes[f"{bits} bits and zstd"] = size, float((decode(packed, CPU) - x).abs().mean())
    for rival in (hivemind_8bit(), nvflare_fp16()):
        name, data = name_of(rival), rival.encode(plain)
        work[f"{name}, encode"] = lambda rival=rival: rival.encode(plain)  # type: ignore[misc]
        work[f"{name}, decode"] = lambda rival=rival, data=data: rival.decode(data, plain.shape)  # type: ignore[misc]
        sizes[name] = len(data), float((rival.decode(data, tuple(plain.shape)) - plain).abs().mean())
    found = speeds(work, x.numel() * 4 / 1e6, QUICK_ROUNDS if report.quick else ROUNDS)
    for name, speed in found.items():
        report.figure("codec", {**case, "what": name}, speed, "MB/s of float32")
    for name, (size, error) in sizes.items():
        report.figure("codec_bytes", {**case, "what": name}, size, "bytes")
        report.figure("codec_error", {**case, "what": name}, error, "mean |x - decoded|")
    hivemind = name_of(hivemind_8bit())
    theirs = found[f"{hivemind}, encode"]
    versus = {**case, "against": hivemind}
    for what, bar in (("8 bits", PLAIN_BAR), ("4 bits and zstd", PACKED_BAR)):
        ratio = found[f"{what}, encode"] / theirs
        report.figure("encode_ratio", {**versus, "what": what}, ratio, "times", at_least=bar)
    for name, our, their in zip(("bytes_ratio", "error_ratio"), sizes[BESIDE], sizes[hivemind], strict=True):
        report.figure(name, {**versus, "what": BESIDE}, our / their, "times", at_most=1.0)


def on_cuda(report: Report, case: dict[str, Any], x: Tensor) -> None:
    """Print whether a GPU makes the same bytes, and the same values of them, where there is one."""
    for bits in BITS:
        made = [encode(each, bits) for each in (x, x.cuda())]
        here, there = ((each.data, each.low.tobytes(), each.scale.tobytes()) for each in made)
        report.figure("cuda_differs", {**case, "bits": bits}, float(here != there), "batches", at_most=0)
        values = [decode(made[0], torch.device(device)).cpu() for device in ("cpu", "cuda")]
        differs = float(not torch.equal(*values))
        report.figure("cuda_decodes_otherwise", {**case, "bits": bits}, differs, "batches", at_most=0)


@benchmark
@data_dir
def main(report: Report, data_dir: Path) -> None:
    """Speed, size and error of the codec on activations of trained networks."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    for network in NETWORKS[-1:] if report.quick else NETWORKS:
        case = network.case(data_dir, report.quick)
        last = {**case, "against": name_of(hivemind_8bit()), "what": BESIDE}
        if report.is_done("error_ratio", last, among=case):
            continue
        activations = trained_activations(network, data_dir, report.quick)
        if torch.cuda.is_available():
            on_cuda(report, case, activations)
        measure(report, case, activations)


if __name__ == "__main__":
    main()
