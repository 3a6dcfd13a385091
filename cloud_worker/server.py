"""The serving process: bind, serve, and leave in order."""

import logging
import signal
import threading
from concurrent import futures
from typing import Any

import click
import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from cloud_worker.config import ServeConfig
from cloud_worker.service import ErrorsToStatus, TrainingService
from cloud_worker.sessions import Sessions
from common.address import split_address
from common.errors import ConfigError
from common.rundir import lock_run_dir
from common.training import resolve_device, use_threads
from common.wire.generated import training_pb2_grpc as pb_grpc

log = logging.getLogger(__name__)

DRAIN_S = 20.0
# Each holds a descriptor, and a process that has none left cannot save: often it has 1024.
MAX_CONNECTIONS = 512
# A connection that says nothing, or no HTTP/2, is closed after it.
HANDSHAKE_MS = 10_000


class Health(health.HealthServicer):
    """The standard health service without Watch.

    A watch would hold a thread for as long as its client likes, and the servicer keeps the name of every
    service that was ever watched. Clients take UNIMPLEMENTED for "cannot be watched", as gRPC's health
    protocol says.
    """

    def Watch(self, request: Any, context: grpc.ServicerContext, send_response_callback: Any = None) -> Any:
        """Refuse."""
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "health can be checked here, not watched")


def serve(config: ServeConfig) -> None:
    """Serve until SIGTERM or SIGINT; then end the streams, save every session and return.

    Raises:
        ConfigError: the address is taken, the run directory is in use, or the device does not exist.
        CheckpointError: what was trained could not be saved at the end.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    lock_run_dir(config.run_dir)
    threads = use_threads(config.threads, shared=config.on_loopback)
    device = resolve_device(config.device)
    sessions = Sessions(config.run_dir, device, config.checkpoint_every, config.max_sessions)
    server, port = start_server(sessions, config)
    host, _ = split_address(config.listen, "--listen")
    click.echo(f"listening on {f'[{host}]' if ':' in host else host}:{port}")
    log.info("device %s, threads %d, sessions in %s", device, threads, config.run_dir)
    stop.wait()
    log.info("shutting down: ending streams and saving")
    stopped = server.stop(DRAIN_S)
    try:
        sessions.save_all()
    finally:
        stopped.wait()


def start_server(sessions: Sessions, config: ServeConfig) -> tuple[grpc.Server, int]:
    """Bind and start; return the server and its port."""
    server = grpc.server(
        # An open stream holds a thread; a few more answer the unary calls.
        futures.ThreadPoolExecutor(max_workers=2 * config.max_sessions + 4),
        interceptors=[ErrorsToStatus()],
        options=[
            ("grpc.so_reuseport", 0),
            ("grpc.max_allowed_incoming_connections", MAX_CONNECTIONS),
            ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
        ],
    )
    pb_grpc.add_TrainingServicer_to_server(TrainingService(sessions), server)  # type: ignore[no-untyped-call]
    checks = Health()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    try:
        port = server.add_insecure_port(config.listen)
    except RuntimeError as error:
        raise ConfigError(
            f"cannot listen on {config.listen}: the port is taken or the address is not this machine's; "
            "choose another with --listen"
        ) from error
    server.start()
    for service in ("", "headwater.v1.Training"):
        checks.set(service, health_pb2.HealthCheckResponse.SERVING)
    return server, port
