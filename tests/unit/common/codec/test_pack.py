"""Bit packing: layout as the .proto file states it."""

import pytest
import torch

from common.codec.pack import pack, unpack


@pytest.mark.parametrize(
    ("bits", "codes", "packed"), [(4, [1, 2, 15], [0x21, 0x0F]), (2, [3, 0, 1, 2, 1], [0x93, 1])]
)
def test_first_code_sits_in_the_lowest_bits(bits, codes, packed):
    assert (
        pack(torch.tensor([codes, codes], dtype=torch.uint8).t().contiguous(), bits).t().tolist()
        == [packed] * 2
    )


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 1001])
def test_unpack_undoes_pack(bits, count):
    codes = torch.randint(0, 1 << bits, (count, 3), dtype=torch.uint8)

    assert torch.equal(unpack(pack(codes, bits), bits, count), codes)
