"""What a run comes to in one process, by its command line."""

import click
import torch

from benchmarks.pair import PairResult, train_pair
from common.flags import options_of
from edge_worker.config import TrainConfig


def config_of(arguments) -> TrainConfig:
    """The config that the command line `arguments` stands for."""
    seen = []

    @click.command()
    @options_of(TrainConfig)
    def command(config, given):
        seen.append(config)

    command.main(arguments, standalone_mode=False)
    return seen[0]


def in_process(arguments, on_the_way=None) -> PairResult:
    """Train both halves here; torch's threads stay as they were."""
    threads = torch.get_num_threads()
    try:
        return train_pair(config_of(arguments), on_the_way)
    finally:
        torch.set_num_threads(threads)


def same(a, b) -> bool:
    """Whether two state dicts are equal to the bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
