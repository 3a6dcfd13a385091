"""Records cut into chunks and put together again."""

import pytest

from common.errors import WireError
from common.wire.messages import Chunk
from common.wire.reassembly import Reassembly, chunks_of


@pytest.mark.parametrize("size", [1, 9, 10, 11, 95])
def test_records_come_out_whole_and_in_order(size):
    records = [bytes([n]) * size for n in range(3)]
    reassembly = Reassembly(max_record_bytes=100)

    out = [reassembly.add(chunk) for record in records for chunk in chunks_of(record, 10)]

    assert [record for record in out if record is not None] == records


def test_record_above_the_limit_is_refused_before_it_is_held():
    with pytest.raises(WireError, match="a record of 101 bytes is above this session's limit of 100"):
        Reassembly(max_record_bytes=100).add(Chunk(101, 0, b"x"))


@pytest.mark.parametrize("second", [Chunk(20, 11, b"y"), Chunk(21, 10, b"y"), Chunk(20, 0, b"y")])
def test_chunk_that_does_not_continue_the_record_is_refused(second):
    reassembly = Reassembly(max_record_bytes=100)
    reassembly.add(Chunk(20, 0, b"x" * 10))

    with pytest.raises(WireError, match="expected offset 10 of a record of 20 bytes"):
        reassembly.add(second)
