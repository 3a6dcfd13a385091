"""One training of a comparison, in its own process: nothing is imported here that a run does not need."""

from common.logs import set_up_logging
from edge_worker.config import TrainConfig
from edge_worker.run import train

# What a cell that goes on takes from this call: where the cloud is now, and how to get in.
ACCESS = frozenset({"cloud", "data_dir", "tls_ca", "tls_cert", "tls_key", "token_file", "connect_timeout"})


def train_cell(config: TrainConfig) -> bool:
    """Train or go on; return whether the run is finished.

    Raises:
        HeadwaterError: it cannot be.
    """
    set_up_logging(config.log_level)
    return train(config, ACCESS).summary is not None
