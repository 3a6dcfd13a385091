"""What the status of a call means to the edge."""

import grpc

from common import errors
from common.endpoint import Endpoint
from common.errors import CloudError, HeadwaterError, SessionError
from common.logs import one_line, short_reason

# What a status means to the edge; any that is not here is worth another try.
FATAL = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.WireError,
    grpc.StatusCode.FAILED_PRECONDITION: SessionError,
    grpc.StatusCode.ABORTED: errors.FencedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.CapacityError,
    grpc.StatusCode.DATA_LOSS: errors.CheckpointError,
    grpc.StatusCode.NOT_FOUND: errors.NotFoundError,
    grpc.StatusCode.UNKNOWN: errors.CloudFailedError,
    grpc.StatusCode.UNIMPLEMENTED: CloudError,
    grpc.StatusCode.UNAUTHENTICATED: errors.UnknownCallerError,
    grpc.StatusCode.PERMISSION_DENIED: errors.NotOwnerError,
}


def explain(error: grpc.RpcError, cloud: Endpoint) -> HeadwaterError:
    """Return what to raise where a call of the cloud has failed so."""
    code, details = error.code(), one_line(error.details() or "")
    if code in FATAL:
        return FATAL[code](f"the cloud at {cloud.address} refused: {details}")
    if refusal := cloud.explain_failure():
        return CloudError(refusal)
    return CloudError(
        f"no cloud answers at {cloud.address} ({code.name}: {short_reason(details)}); "
        "start `cloud-worker serve` there, or give its address with --cloud"
    )
