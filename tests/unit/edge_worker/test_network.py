"""The edge's share of the network, and nothing more of it."""

import gc

import pytest
import torch

from common.models.catalogue import ModelSpec
from common.strategies import find_strategy
from edge_worker.network import build_network

SPEC = ModelSpec(name="vgg11", num_classes=7, input_shape=(3, 32, 32))


def parameters_alive():
    """Return how many values of parameters this process has in memory, whoever holds them."""
    alive = [each for each in gc.get_objects() if type(each) is torch.nn.Parameter]
    return sum(each.numel() for each in alive if not each.is_meta)


@pytest.mark.parametrize("strategy", ["hierarchical", "full-cloud"])
def test_layers_of_the_cloud_take_no_memory_on_the_edge(strategy):
    """It is built with the whole, for the digests and the initial weights, and has the most parameters."""
    gc.collect()
    before = parameters_alive()
    gc.disable()  # what only cycles hold counts, too
    try:
        network = build_network(SPEC, find_strategy(strategy), "pool1", "light", seed=0)
        grown = parameters_alive() - before
    finally:
        gc.enable()

    halves = [half for half in (network.front, network.exit) if half is not None]
    assert grown == sum(each.numel() for half in halves for each in half.parameters())
