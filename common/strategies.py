"""A strategy is data: where the network is cut, whether there is an exit, whether a gradient comes back."""

from dataclasses import dataclass

from common.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """One way to share a network between edge and cloud.

    Attributes:
        name: as `--strategy` takes it.
        cut: `input` before the first layer, `split` at the split point, `output` behind the last layer.
        exit: whether the edge's part learns from an early exit's loss.
        gradient: whether it learns from the gradient that comes back from the cloud.
    """

    name: str
    cut: str
    exit: bool
    gradient: bool = False

    @property
    def uses_cloud(self) -> bool:
        """Whether there is anything behind the cut."""
        return self.cut != "output"

    @property
    def sends_images(self) -> bool:
        """Whether images go up, as nothing lies before the cut."""
        return self.cut == "input"


STRATEGIES = {
    strategy.name: strategy
    for strategy in (
        Strategy(name="hierarchical", cut="split", exit=True),
        Strategy(name="split-learning", cut="split", exit=False, gradient=True),
        Strategy(name="full-cloud", cut="input", exit=False),
        Strategy(name="full-edge", cut="output", exit=False),
    )
}


def find_strategy(name: str) -> Strategy:
    """Return the strategy of that name; raises ConfigError with those there are."""
    if name not in STRATEGIES:
        raise ConfigError(f"--strategy must be one of {', '.join(STRATEGIES)}, got {name!r}")
    return STRATEGIES[name]


def strategies_in(names: str) -> tuple[str, ...]:
    """Return the strategies in a list with commas; raises ConfigError where there is another, or none."""
    found = tuple(dict.fromkeys(name for each in names.split(",") if (name := each.strip())))
    unknown = [name for name in found if name not in STRATEGIES]
    if unknown or not found:
        raise ConfigError(
            f"--strategies must be some of {','.join(STRATEGIES)}, got {','.join(unknown) or 'none'}"
        )
    return found
