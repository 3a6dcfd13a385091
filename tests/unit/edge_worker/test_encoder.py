"""The thread between the training loop and the outbox."""

import threading
from functools import partial

import pytest
import torch

from benchmarks.processes import wait_for
from common.codec import encode
from common.errors import CodecError, SessionError
from common.wire.messages import Batch
from common.wire.records import record_to_bytes
from edge_worker.encoder import Encoder
from edge_worker.outbox import Outbox

LIMIT = 1 << 20
FOUR_BITS = partial(encode, bits=4)
PATIENCE_S = 60.0


def activations(seed=0):
    return torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(seed)).relu()


def batch(seq):
    return lambda packed: Batch(seq, packed, (0, 1))


def taken(outbox):
    """Return the bytes of all records that wait in the outbox."""
    parcels = iter(outbox.take, None)
    return [outbox.data_of(parcel) for parcel in parcels]


def test_what_is_put_comes_out_encoded_in_the_same_order():
    outbox = Outbox(LIMIT)
    with Encoder(outbox, FOUR_BITS) as encoder:
        for seq in range(5):
            assert encoder.put(activations(seq), batch(seq)) == 0
        encoder.flush()

        expected = [record_to_bytes(Batch(seq, encode(activations(seq), 4), (0, 1))) for seq in range(5)]
        assert taken(outbox) == expected


def test_what_cannot_be_encoded_is_raised_where_it_is_put_or_flushed_and_nothing_follows_it():
    outbox = Outbox(LIMIT)
    with Encoder(outbox, FOUR_BITS) as encoder:
        encoder.put(torch.full((2, 3, 4, 4), float("nan")), batch(0))
        with pytest.raises(CodecError, match="must be finite"):
            encoder.flush()
        with pytest.raises(CodecError, match="must be finite"):
            encoder.put(activations(), batch(1))
    assert taken(outbox) == []


def test_a_failed_uplink_ends_the_training():
    outbox = Outbox(LIMIT)
    outbox.fail(SessionError("the cloud has another run"))
    with Encoder(outbox, FOUR_BITS) as encoder:
        encoder.put(activations(), batch(0))
        with pytest.raises(SessionError, match="another run"):
            encoder.flush()


def test_a_full_outbox_has_the_training_wait_and_the_wait_is_told():
    """One record is offered, one waits for room, one for the encoder: the fourth is not taken."""
    outbox = Outbox(limit_bytes=1)
    waited = []

    def train(encoder):
        waited.extend(encoder.put(activations(), batch(seq)) for seq in range(4))

    with Encoder(outbox, FOUR_BITS) as encoder:
        training = threading.Thread(target=train, args=(encoder,), daemon=True)
        training.start()
        wait_for(lambda: outbox.blocked, "the outbox to be full", PATIENCE_S)
        training.join(0.3)
        assert training.is_alive()

        outbox.leave()
        training.join(PATIENCE_S)
    assert len(waited) == 4
    assert waited[0] == 0
    assert waited[3] > 0


def test_an_error_in_the_training_does_not_wait_for_room():
    outbox = Outbox(limit_bytes=1)

    def train():
        with Encoder(outbox, FOUR_BITS) as encoder:
            for seq in range(3):
                encoder.put(activations(), batch(seq))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train()
    assert outbox.leaving
