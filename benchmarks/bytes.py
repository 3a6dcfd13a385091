"""How near do the bytes on the wire come to the entropy of the codes?

python -m benchmarks.bytes [--quick] [--data-dir DIR] [--out FILE]

One batch of 128 images at 8, 4 and 2 bits: its codes as they go up, against their order-0 entropy, pooled
over all channels. Beside it: the entropy with a distribution for each channel, and the header (ranges and
labels, all that is not codes).
"""

from pathlib import Path

import torch
from torch import Tensor

from benchmarks.activations import NETWORKS, trained_activations
from benchmarks.report import Report, benchmark, data_dir
from common.codec import encode
from common.codec.pack import unpack
from common.codec.quantise import quantise
from common.wire.messages import Batch
from common.wire.records import record_to_bytes

BAR = 1.03
WIDTHS = (8, 4, 2)


def entropy_bytes(codes_CP: Tensor, bits: int) -> tuple[float, float]:
    """Return the order-0 entropy of all codes, in bytes: pooled, and with a distribution for each channel."""
    counts_CK = torch.stack([torch.bincount(codes, minlength=1 << bits) for codes in codes_CP]).double()
    return _bits(counts_CK.sum(dim=0)) / 8, sum(_bits(counts) for counts in counts_CK) / 8


def _bits(counts_K: Tensor) -> float:
    counts = counts_K[counts_K > 0]
    return float((counts * (counts.sum().log2() - counts.log2())).sum())


@benchmark
@data_dir
def main(report: Report, data_dir: Path) -> None:
    """Bytes of a record against the entropy of its codes."""
    torch.set_num_threads(1)
    for network in NETWORKS[-1:] if report.quick else NETWORKS:
        of = network.case(data_dir, report.quick)
        if report.is_done("bytes_over_entropy", {**of, "bits": WIDTHS[-1]}, among=of):
            continue
        x = trained_activations(network, data_dir, report.quick)
        for bits in WIDTHS:
            packed_CB, _, _ = quantise(x, bits)
            codes_CP = unpack(packed_CB.t().contiguous(), bits, x.numel() // x.shape[1]).t()
            pooled, by_channel = entropy_bytes(codes_CP, bits)
            packed = encode(x, bits)
            record = record_to_bytes(Batch(0, packed, tuple(range(len(x)))))
            header = len(record) - len(packed.data)
            case = {**of, "bits": bits}
            report.figure("record_bytes", case, len(record), "bytes")
            report.figure("header_bytes", case, header, "bytes")
            report.figure("entropy_pooled", case, pooled, "bytes")
            report.figure("entropy_by_channel", case, by_channel, "bytes")
            report.figure("bytes_over_entropy", case, len(packed.data) / pooled, "times", at_most=BAR)


if __name__ == "__main__":
    main()
