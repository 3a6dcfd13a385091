"""Front and exit, and nothing else: the edge's training with no codec, no outbox and no cloud.

python -m benchmarks.front SETTINGS    (fields of the edge's configuration, as JSON)

Prints the seconds from the first step to the last one.
"""

import json
import time
from typing import Any

import click

from common.data.loader import Loader
from common.strategies import find_strategy
from edge_worker.config import TrainConfig
from edge_worker.run import Work


@click.command()
@click.argument("settings")
def main(settings: str) -> None:
    """Train front and exit."""
    fields: dict[str, Any] = json.loads(settings)
    config = TrainConfig(**fields)
    work = Work(config, find_strategy("hierarchical"))
    loader = Loader(work.dataset.train, config.batch_size, config.seed, config.workers)
    started = None
    for batch in loader.batches(0, work.plan.total_batches):
        started = started or time.monotonic()
        work.front.step(batch)
    assert started is not None  # there is at least one batch
    click.echo(time.monotonic() - started)


if __name__ == "__main__":
    main()
