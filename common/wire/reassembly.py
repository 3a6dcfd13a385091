"""Records <-> chunks.

A record is parsed only when it is whole; until then no more is held than has arrived, and never more than
the limit that Welcome named.
"""

from collections.abc import Iterator

from common.errors import WireError
from common.wire.messages import Chunk


def chunks_of(record: bytes, chunk_bytes: int) -> Iterator[Chunk]:
    """Cut one serialised record into chunks of at most `chunk_bytes`."""
    for offset in range(0, len(record), chunk_bytes):
        yield Chunk(len(record), offset, record[offset : offset + chunk_bytes])


class Reassembly:
    """Puts the chunks of one stream together again."""

    def __init__(self, max_record_bytes: int) -> None:
        self._max = max_record_bytes
        self._data = bytearray()
        self._expected = 0  # size of the record under way; 0 between records

    def add(self, chunk: Chunk) -> bytes | None:
        """Take the next chunk; return the record that it completes, or None.

        Raises:
            WireError: the record is longer than allowed, or the chunk does not continue the one before.
        """
        if not self._data:
            if chunk.record_bytes > self._max:
                raise WireError(
                    f"a record of {chunk.record_bytes} bytes is above this session's limit of {self._max}"
                )
            self._expected = chunk.record_bytes
        if chunk.record_bytes != self._expected or chunk.offset != len(self._data):
            raise WireError(
                f"expected offset {len(self._data)} of a record of {self._expected} bytes, "
                f"got offset {chunk.offset} of {chunk.record_bytes}"
            )
        if not self._data and len(chunk.data) == self._expected:
            return chunk.data
        self._data += chunk.data
        if len(self._data) < self._expected:
            return None
        record = bytes(self._data)
        self._data.clear()
        return record
