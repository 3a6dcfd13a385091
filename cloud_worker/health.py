"""Asks a server whether it serves; without torch, because containers ask every few seconds."""

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from common.errors import CloudError

TIMEOUT_S = 5.0


def check_health(address: str) -> str:
    """Ask the standard health service at `address`; raises CloudError where it does not serve."""
    with grpc.insecure_channel(address) as channel:
        try:
            request = health_pb2.HealthCheckRequest(service="headwater.v1.Training")
            reply = health_pb2_grpc.HealthStub(channel).Check(request, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            raise CloudError(f"no cloud answers at {address} ({error.code().name})") from error
    if reply.status != health_pb2.HealthCheckResponse.SERVING:
        raise CloudError(f"the cloud at {address} is not serving")
    return f"{address} is serving"
