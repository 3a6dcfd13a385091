"""What must hold of a message before anything is made of it: ranges, lengths, names.

Everything here raises WireError with what came and what was wanted. What a message says that only its
receiver can judge (another run, a gap, an older generation) is the receiver's to refuse.
"""

import math
import re
from collections.abc import Sequence

from common.codec import WIDTHS
from common.errors import WireError
from common.strategies import STRATEGIES
from common.training import PRECISIONS
from common.wire import messages as m

MAX_DIM = 1 << 24  # values of one image
MAX_COUNT = 1 << 16  # images in a batch, classes, epochs
MAX_KEPT_IMAGES = 1 << 22  # eight bytes of memory each; how much disk they may take is the cloud's to say
# Exact in JSON and in float64, and one more still fits the wire.
MAX_NUMBER = 1 << 53
# Far above any that trains; what torch multiplies float32 with must fit into float32.
MAX_FACTOR = 1e6

MAX_TEXT = 300  # of what a machine says of itself

# Also keeps line breaks, terminal escapes and megabytes out of logs and error messages.
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_DIGEST = re.compile(r"[0-9a-f]{1,128}")

_RANGES = {
    "num_classes": (2, MAX_COUNT),
    "batch_size": (2, MAX_COUNT),
    "total_batches": (1, MAX_NUMBER),
    "warmup": (0, MAX_NUMBER),
    "batches_per_epoch": (1, MAX_NUMBER),
}


def check(holds: bool, otherwise: str) -> None:
    """Raise WireError unless `holds`."""
    if not holds:
        raise WireError(otherwise)


# ------------------------------------------------------------------ from the edge


def check_hello(hello: m.Hello) -> None:
    """Check all of a Hello but its version and session id, which the service refuses by themselves."""
    check_run(hello.run)
    check(
        1 <= hello.generation <= MAX_NUMBER,
        f"generation must be 1 to {MAX_NUMBER}, got {hello.generation}",
    )
    check(
        hello.losses_from <= hello.run.total_batches,
        f"losses_from must be at most the run's {hello.run.total_batches} batches, got {hello.losses_from}",
    )
    end = m.Position(hello.run.total_batches + 1)
    check(
        hello.kept_from <= end,
        f"kept_from must be at most {tuple(end)}, which follows the run's End, got {tuple(hello.kept_from)}",
    )
    returns = hello.run.gradient_bits > 0
    low, high = (hello.losses_from, hello.run.total_batches) if returns else (0, 0)
    check(
        low <= hello.gradients_from <= high,
        f"gradients_from must be {low} to {high} (losses_from to total_batches where gradients come back, "
        f"else 0), got {hello.gradients_from}",
    )


def check_run(run: m.Run) -> None:
    """Check every field of what both sides are to agree on."""
    clouds = [strategy.name for strategy in STRATEGIES.values() if strategy.uses_cloud]
    check(run.strategy in clouds, f"strategy must be {' or '.join(clouds)}, got {shown(run.strategy)}")
    for name in ("model", "stem", "classifier", "split"):
        text = getattr(run, name)
        check(
            _NAME.fullmatch(text) is not None,
            f"{name} must be 1 to 64 letters, digits, dots, dashes or underscores, got {shown(text)}",
        )
    for name in ("structure_digest", "weights_digest"):
        text = getattr(run, name)
        check(_DIGEST.fullmatch(text) is not None, f"{name} must be lower-case hex, got {shown(text)}")
    for name in ("input_shape", "activation_shape"):
        _check_shape(name, getattr(run, name))
    check(run.bits in WIDTHS, f"bits must be one of {WIDTHS}, got {run.bits}")
    for name, (low, high) in _RANGES.items():
        value = getattr(run, name)
        check(low <= value <= high, f"{name} must be {low} to {high}, got {value}")
    check(
        run.precision in PRECISIONS,
        f"precision must be {' or '.join(PRECISIONS)}, got {shown(run.precision)}",
    )
    _check_factors(run)
    epochs = -(-run.total_batches // run.batches_per_epoch)
    check(epochs <= MAX_COUNT, f"a run may have {MAX_COUNT} epochs, got {epochs}")
    _check_images(run)
    _check_gradient(run)


def _check_gradient(run: m.Run) -> None:
    returns = STRATEGIES[run.strategy].gradient
    wanted = WIDTHS if returns else (0,)
    check(
        run.gradient_bits in wanted,
        f"gradient_bits must be one of {wanted} with {run.strategy}, got {run.gradient_bits}",
    )


def _check_images(run: m.Run) -> None:
    """Check what only a run has that sends images; one that does not has none of it."""
    if not STRATEGIES[run.strategy].sends_images:
        check(
            not run.mean and not run.std and not run.kept_images,
            f"mean, std and kept_images must be empty where no images go up, as in {run.strategy}",
        )
        return
    shape = run.input_shape
    check(shape[0] == 3, f"images have 3 colours, got an input_shape of {list(shape)}")
    check(
        run.activation_shape == shape and run.bits == 8 and run.split == "input",
        f"{run.strategy} is cut at 'input' with activations of shape {list(shape)} in 8 bits, "
        f"got {shown(run.split)}, {list(run.activation_shape)} in {run.bits}",
    )
    for name, low in (("mean", -MAX_FACTOR), ("std", 1 / MAX_FACTOR)):
        values = getattr(run, name)
        fits = len(values) == 3 and all(low <= value <= MAX_FACTOR for value in values)
        check(fits, f"{name} must be 3 numbers from {low:g} to {MAX_FACTOR:g}, got {list(values)[:4]}")
    check(
        run.kept_images == 0 or 2 <= run.kept_images <= MAX_KEPT_IMAGES,
        f"kept_images must be 0, or 2 to {MAX_KEPT_IMAGES}, got {run.kept_images}",
    )


def _check_factors(run: m.Run) -> None:
    # NaN is in no range.
    check(0 < run.lr <= MAX_FACTOR, f"lr must be above 0 and at most {MAX_FACTOR:g}, got {run.lr}")
    check(0 <= run.momentum < 1, f"momentum must be in [0, 1), got {run.momentum}")
    check(
        0 <= run.weight_decay <= MAX_FACTOR,
        f"weight_decay must be 0 to {MAX_FACTOR:g}, got {run.weight_decay}",
    )


def _check_shape(name: str, shape: Sequence[int]) -> None:
    check(len(shape) == 3, f"{name} must be [C, H, W], got {len(shape)} numbers")
    fits = all(1 <= dim <= MAX_DIM for dim in shape) and math.prod(shape) <= MAX_DIM
    check(fits, f"{name} must be [C, H, W] with at most {MAX_DIM} values, got {list(shape)}")


# ------------------------------------------------------------------ from the cloud


def check_reply(reply: m.Welcome | m.Ack, run: m.Run) -> None:
    """Check what the cloud says of the edge's run; what a diverged network comes to may be NaN."""
    end = m.Position(run.total_batches + 1)
    for name in ("applied", "durable"):
        position = getattr(reply, name)
        check(
            position <= end,
            f"the cloud says {name} {tuple(position)}, but the run ends at {tuple(end)}",
        )
    check(
        reply.durable <= reply.applied,
        f"the cloud says that {tuple(reply.durable)} is durable and only {tuple(reply.applied)} applied",
    )
    for result in reply.results:
        check(
            1 <= result.batches <= run.total_batches and result.correct <= result.total >= 1,
            f"the cloud tells of an evaluation after {result.batches} batches with {result.correct} of "
            f"{result.total} right, in a run of {run.total_batches} batches",
        )
    if isinstance(reply, m.Ack):
        _check_ack(reply, run)


def _check_ack(ack: m.Ack, run: m.Run) -> None:
    check(
        not ack.losses or ack.first_loss + len(ack.losses) <= run.total_batches,
        f"the cloud tells {len(ack.losses)} losses from batch {ack.first_loss} on, "
        f"in a run of {run.total_batches} batches",
    )
    busy_s = ack.counters.busy_s
    check(math.isfinite(busy_s) and busy_s >= 0, f"busy_s must be 0 or more, got {busy_s}")


def check_profile(profile: m.BackProfile) -> None:
    """Check what a cloud says of its speed."""
    for name in ("step_s", "gradient_step_s", "receive_s"):
        value = getattr(profile, name)
        check(math.isfinite(value) and value >= 0, f"{name} must be 0 or more, got {value}")
    check(profile.step_s > 0, "the cloud says that a step takes no time")
    for name in ("machine", "device"):
        text = getattr(profile, name)
        check(
            len(text) <= MAX_TEXT and text.isprintable(),
            f"{name} must be at most {MAX_TEXT} printable characters, got {shown(text)}",
        )


# ------------------------------------------------------------------ small parts


def shown(text: str) -> str:
    """Return a peer's text quoted, shortened and without anything that a terminal would obey."""
    return ascii(text if len(text) <= 64 else text[:64] + "...")
