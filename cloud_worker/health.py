"""Asks a server whether it serves; without torch, because containers ask every few seconds."""

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from common.endpoint import Endpoint
from common.errors import CloudError

TIMEOUT_S = 5.0


def check_health(cloud: Endpoint) -> str:
    """Ask the standard health service of `cloud`; raises CloudError where it does not serve."""
    with cloud.open() as channel:
        try:
            request = health_pb2.HealthCheckRequest(service="headwater.v1.Training")
            reply = health_pb2_grpc.HealthStub(channel).Check(request, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            reason = cloud.explain_failure() or f"no cloud answers at {cloud.address} ({error.code().name})"
            raise CloudError(reason) from error
    if reply.status != health_pb2.HealthCheckResponse.SERVING:
        raise CloudError(f"the cloud at {cloud.address} is not serving")
    return f"{cloud.address} is serving"
