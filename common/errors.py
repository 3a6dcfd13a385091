"""Every failure that a user or a peer can cause, as one tree.

HeadwaterError
├── ConfigError       a setting is wrong, or differs from the run it should resume
├── DataError         a data set is missing or unusable
├── ModelError        an unknown model, or a place where it cannot be cut
├── CodecError        activations cannot be encoded or decoded
├── WireError         a message does not mean what the protocol says it must
├── SessionError      edge and cloud cannot go on with each other
│   ├── FencedError   a newer stream of the same run has taken over
│   └── StateLostError  the cloud's disk is behind what the edge still has
├── CapacityError     the cloud will not hold another session
├── NotFoundError     the cloud keeps no such session
├── UnknownCallerError  the cloud does not know who calls
├── NotOwnerError     the session belongs to another caller
├── CheckpointError   a saved state is damaged, or cannot be written
└── CloudError        the cloud cannot be reached, or ended the stream

Each class names the gRPC status that carries it to the peer; an interceptor translates, so services raise
and never touch a `ServicerContext`. Messages say what came, what was wanted, and what to do.
"""

import grpc


class HeadwaterError(Exception):
    """Base of all expected failures: one line for the user, no traceback."""

    status: grpc.StatusCode = grpc.StatusCode.INTERNAL


class ConfigError(HeadwaterError):
    """A setting is out of range, or differs from the run that is to be resumed."""

    status = grpc.StatusCode.INVALID_ARGUMENT


class DataError(HeadwaterError):
    """A data set is missing or cannot be used."""

    status = grpc.StatusCode.FAILED_PRECONDITION


class ModelError(HeadwaterError):
    """A model is unknown, or cannot be cut at the given point."""

    status = grpc.StatusCode.INVALID_ARGUMENT


class CodecError(HeadwaterError):
    """Activations cannot be encoded, or bytes do not decode to what they claim."""

    status = grpc.StatusCode.INVALID_ARGUMENT


class WireError(HeadwaterError):
    """A message is not what the protocol allows at this place."""

    status = grpc.StatusCode.INVALID_ARGUMENT


class SessionError(HeadwaterError):
    """Edge and cloud disagree on the run that they share."""

    status = grpc.StatusCode.FAILED_PRECONDITION


class FencedError(SessionError):
    """A newer stream of the same run has taken over; this one must stop for good."""

    status = grpc.StatusCode.ABORTED


class StateLostError(SessionError):
    """The records between what the cloud has on its disk and what the edge still keeps are gone."""


class CapacityError(HeadwaterError):
    """The cloud will not hold another session."""

    status = grpc.StatusCode.RESOURCE_EXHAUSTED


class NotFoundError(HeadwaterError):
    """The cloud keeps no such session."""

    status = grpc.StatusCode.NOT_FOUND


class UnknownCallerError(HeadwaterError):
    """The cloud does not know who calls."""

    status = grpc.StatusCode.UNAUTHENTICATED


class NotOwnerError(HeadwaterError):
    """The session belongs to another caller."""

    status = grpc.StatusCode.PERMISSION_DENIED


class CheckpointError(HeadwaterError):
    """A saved state is damaged, or could not be written."""

    status = grpc.StatusCode.DATA_LOSS


class CloudError(HeadwaterError):
    """The cloud cannot be reached, or ended the stream."""

    status = grpc.StatusCode.UNAVAILABLE


class CloudFailedError(CloudError):
    """The cloud, or what is between, failed in a way that it has no word for; its log may say more."""

    status = grpc.StatusCode.UNKNOWN
