import pytest

from common.link.framing import FRAME_PAYLOAD_BYTES, wire_bytes


@pytest.mark.parametrize(
    ("message", "above"),
    [
        (0, 40),
        (100, 40),
        (6144, 40),
        (FRAME_PAYLOAD_BYTES - 5, 40),
        (FRAME_PAYLOAD_BYTES - 4, 49),
        (2**20, 49),
    ],
)
def test_framing_adds_prefix_frame_headers_and_window_updates(message, above):
    assert wire_bytes(message) == message + above
