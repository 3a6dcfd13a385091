"""What edge and cloud say to each other, as plain values; units and ranges are those of the .proto file.

Nothing outside `common.wire` touches a protobuf field.
"""

from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from common.codec import CodedImages, Packed

PROTOCOL_VERSION = 3
MAX_CHUNK_BYTES = 1 << 20


class Position(NamedTuple):
    """A place in the stream: batches behind it, and parts of the evaluation taken there."""

    batches: int
    parts: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What both sides must agree on; fixed by the first Hello of a session."""

    strategy: str
    model: str
    stem: str
    classifier: str
    split: str
    input_shape: tuple[int, ...]
    num_classes: int
    activation_shape: tuple[int, ...]
    structure_digest: str
    weights_digest: str
    bits: int
    batch_size: int
    total_batches: int
    seed: int
    precision: str
    lr: float
    momentum: float
    weight_decay: float
    warmup: int
    batches_per_epoch: int
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    kept_images: int = 0
    gradient_bits: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """The edge's first message."""

    session_id: str
    generation: int
    run: Run
    losses_from: int
    kept_from: Position = Position(0)
    gradients_from: int = 0
    protocol_version: int = PROTOCOL_VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationResult:
    """The back's accuracy is `correct / total` after training on `batches` batches."""

    batches: int
    correct: int
    total: int
    loss: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """The cloud's answer to Hello."""

    applied: Position
    durable: Position
    max_record_bytes: int
    results: tuple[EvaluationResult, ...]
    protocol_version: int = PROTOCOL_VERSION


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of one record."""

    record_bytes: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What the cloud should know besides records."""

    losses_from: int
    save: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """The cloud's figures over all lives of a session."""

    busy_s: float = 0.0
    peak_rss_bytes: int = 0
    batches_applied: int = 0
    duplicates_ignored: int = 0
    resumes: int = 0
    batches_skipped: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack:
    """News from the cloud."""

    received_bytes: int
    applied: Position
    durable: Position
    first_loss: int = 0
    losses: tuple[float, ...] = ()
    results: tuple[EvaluationResult, ...] = ()
    counters: Counters = field(default_factory=Counters)


@dataclass(frozen=True, slots=True)
class Reference:
    """Images that the cloud keeps, by their numbers; `fresh` are those that it has not had yet, if any."""

    images: tuple[int, ...]
    fresh: CodedImages | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Trains the back once."""

    seq: int
    content: Packed | CodedImages | Reference
    labels: tuple[int, ...]

    @property
    def after(self) -> Position:
        """Where the stream stands once this record is applied."""
        return Position(self.seq + 1)


@dataclass(frozen=True, slots=True)
class EvaluationPart:
    """One batch of the test set; the evaluation taken after `batches` batches has `num_parts` of them."""

    batches: int
    part: int
    num_parts: int
    content: Packed | CodedImages
    labels: tuple[int, ...]

    @property
    def after(self) -> Position:
        """Where the stream stands once this record is applied."""
        return Position(self.batches, self.part + 1)


@dataclass(frozen=True, slots=True)
class Skip:
    """Stands for a batch that the edge gave up."""

    seq: int

    @property
    def after(self) -> Position:
        """Where the stream stands once this record is applied."""
        return Position(self.seq + 1)


@dataclass(frozen=True, slots=True)
class End:
    """The run is complete."""

    total_batches: int

    @property
    def after(self) -> Position:
        """Where the stream stands once this record is applied."""
        return Position(self.total_batches + 1)


@dataclass(frozen=True, slots=True)
class Gradient:
    """What comes back for one batch."""

    seq: int
    content: Packed


Record: TypeAlias = Batch | EvaluationPart | Skip | End
Request: TypeAlias = Hello | Chunk | Note
Reply: TypeAlias = Welcome | Ack | Chunk


@dataclass(frozen=True, slots=True, kw_only=True)
class BackProfile:
    """How fast a cloud would train a run; units are those of the .proto file."""

    step_s: float
    gradient_step_s: float
    gradient_bytes: int
    received_bytes: int
    receive_s: float
    machine: str
    device: str
    threads: int
    others: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Where a session stands."""

    applied: Position
    durable: Position
    total_batches: int
    finished: bool
    counters: Counters
    results: tuple[EvaluationResult, ...]
