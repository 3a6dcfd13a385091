"""Optimiser, schedule and state."""

import itertools

import pytest
import torch
from torch import nn

from common.checkpoint import state_digest
from common.errors import CheckpointError, ConfigError
from common.training import Optimisation, Trainee, resolve_device, use_threads

OPTIMISATION = Optimisation(lr=0.1, momentum=0.9, weight_decay=1e-4, warmup=4, total_batches=20)


def trainee(seed=0, width=6):
    torch.manual_seed(5)
    network = nn.Sequential(
        nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Dropout(0.5), nn.Flatten(), nn.LazyLinear(2)
    )
    network(torch.zeros(2, 3, 5, 5))
    return Trainee({"front": network}, OPTIMISATION, "float32", torch.device("cpu"), seed, "edge")


def train(half, start, stop):
    for seq in range(start, stop):
        half.begin_step(seq)
        x = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(seq))
        half.learn(half.modules["front"](x).square().mean())


def test_learning_rate_warms_up_and_falls_to_nothing():
    rates = [OPTIMISATION.lr_at(seq) for seq in range(20)]

    assert rates[:4] == pytest.approx([0.025, 0.05, 0.075, 0.1])
    assert rates[4] == pytest.approx(0.1)
    assert all(a > b for a, b in itertools.pairwise(rates[4:]))
    assert rates[-1] < 0.002


def test_warm_up_takes_at_most_half_the_run():
    short = Optimisation(lr=1.0, momentum=0, weight_decay=0, warmup=100, total_batches=4)

    assert short.lr_at(1) == 1.0


def test_restored_state_trains_on_to_the_same_bits():
    """Dropout, batch norm and momentum are all in play."""
    whole, first, second = trainee(), trainee(), trainee()
    train(whole, 0, 6)
    train(first, 0, 3)
    second.load_state(first.state())
    train(second, 3, 6)

    assert state_digest(second.state()) == state_digest(whole.state())


def test_another_seed_trains_to_other_bits():
    a, b = trainee(seed=0), trainee(seed=1)
    train(a, 0, 2)
    train(b, 0, 2)

    assert state_digest(a.state()) != state_digest(b.state())


def test_state_of_another_network_is_refused():
    with pytest.raises(CheckpointError, match="holds another network"):
        trainee().load_state(trainee(width=7).state())


def test_unknown_device_is_refused_in_one_line():
    with pytest.raises(ConfigError, match="--device 'tpu' cannot be used here; try auto or cpu"):
        resolve_device("tpu")


@pytest.mark.parametrize(
    ("threads", "shared", "expected"), [(None, False, 6), (None, True, 3), (5, True, 5), (5, False, 5)]
)
def test_edge_and_cloud_on_one_machine_take_half_of_its_cores_each(monkeypatch, threads, shared, expected):
    """More threads than cores wait for each other at every layer."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(6)
    try:
        assert use_threads(threads, shared) == torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)


def test_gradients_take_no_memory_between_two_steps():
    """They are as large as the weights, and a cloud holds many runs."""
    half = trainee()
    train(half, 0, 2)

    assert all(parameter.grad is None for parameter in half.modules.parameters())
