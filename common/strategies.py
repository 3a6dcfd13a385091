"""A strategy is data: where the network is cut, and whether the front has an exit."""

from dataclasses import dataclass

from common.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """One way to share a network between edge and cloud.

    Attributes:
        name: as `--strategy` takes it.
        cut: `split` at the split point, `output` behind the last layer.
        exit: whether the edge's part learns from an early exit's loss, not from the network's own output.
    """

    name: str
    cut: str
    exit: bool

    @property
    def uses_cloud(self) -> bool:
        """Whether there is anything behind the cut."""
        return self.cut != "output"


STRATEGIES = {
    strategy.name: strategy
    for strategy in (
        Strategy(name="hierarchical", cut="split", exit=True),
        Strategy(name="full-edge", cut="output", exit=False),
    )
}


def find_strategy(name: str) -> Strategy:
    """Return the strategy of that name; raises ConfigError with those there are."""
    if name not in STRATEGIES:
        raise ConfigError(f"--strategy must be one of {', '.join(STRATEGIES)}, got {name!r}")
    return STRATEGIES[name]
