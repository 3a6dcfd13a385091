"""The serving process: bind, serve, and leave in order."""

import errno
import logging
import signal
import socket
import threading
from concurrent import futures
from typing import Any

import click
import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from cloud_worker.config import ServeConfig
from cloud_worker.door import Door
from cloud_worker.interceptors import OPEN_AT_ONCE, ErrorsToStatus, OnlyKnown
from cloud_worker.service import EXPORTS_AT_ONCE, TrainingService
from cloud_worker.sessions import Sessions
from cloud_worker.unread import EndUnread
from common.address import resolves, split_address
from common.codec import NOT_COMPILED, is_compiled
from common.errors import ConfigError
from common.memory import freeze_objects, thaw_objects, tune_malloc
from common.models.catalogue import model_names
from common.rundir import lock_run_dir
from common.training import resolve_device, use_threads
from common.wire.generated import training_pb2_grpc as pb_grpc

log = logging.getLogger(__name__)

DRAIN_S = 20.0
# Gradients of weights come and go at each step: of 9 MiB in the widest layers of VGGs and ResNets.
LARGEST_IN_HEAP = 16 << 20
TAKEN = "the port is taken or the address is not this machine's"
# Each holds a descriptor, and a process that has none left cannot save: often it has 1024.
MAX_CONNECTIONS = 512
# A connection that says nothing, or no HTTP/2, is closed after it: as long as gRPC's clients try. TLS crosses
# a satellite link six times.
HANDSHAKE_MS = 20_000
# So is one on which nothing is called; an edge's has its stream.
IDLE_CONNECTION_MS = 60_000


class Health(health.HealthServicer):
    """The standard health service without Watch.

    A watch would hold a thread for as long as its client likes, and the servicer keeps the name of every
    service that was ever watched. Clients take UNIMPLEMENTED for "cannot be watched", as gRPC's health
    protocol says.
    """

    def Watch(self, request: Any, context: grpc.ServicerContext, send_response_callback: Any = None) -> Any:
        """Refuse."""
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "health can be checked here, not watched")


# A peer that is gone without a word is noticed after at most 15 + 40 s. The first is how long nothing comes
# before gRPC asks, the second how long the answer to any of its pings may take, also to those by which it
# measures the link: it may wait behind data, which every sender of ours bounds for that. (Of the two timeouts
# the longer one counts; that of the keepalive alone is never armed in grpcio 1.85.) However often such a
# link's pings come, in bunches, its stream is not closed for them.
PING_TIMEOUT_MS = 40_000
KEEPALIVE = (
    ("grpc.keepalive_time_ms", 15_000),
    ("grpc.keepalive_timeout_ms", PING_TIMEOUT_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.ping_timeout_ms", PING_TIMEOUT_MS),
    ("grpc.http2.max_ping_strikes", 0),
)


def serve(config: ServeConfig) -> None:
    """Serve until SIGTERM or SIGINT; then end the streams, save every session and return.

    Raises:
        ConfigError: the address is taken, the run directory is in use, the device does not exist, a file
            of certificates or tokens does not fit, or a model is not known.
        CheckpointError: what was trained could not be saved at the end.
        StateLostError: the only session under way has lost its state, so that nothing is left to be served.
    """
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    tune_malloc(LARGEST_IN_HEAP, keeps_pieces=True)
    _check_models(config)
    door = Door.read(config)
    lock_run_dir(config.run_dir)
    threads = use_threads(config.threads, shared=config.on_loopback)
    device = resolve_device(config.device)
    sessions = Sessions(config.run_dir, device, config.checkpoint_every, config, on_loss=stop.set)
    # Not before: until it listens there is nothing to save, and Ctrl-C ends it at once.
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    calls = EndUnread(config.idle_timeout)
    server, port = start_server(sessions, config, door, calls)
    freeze_objects()
    host, _ = split_address(config.listen, "--listen")
    click.echo(f"listening on {f'[{host}]' if ':' in host else host}:{port}")
    log.info("device %s, threads %d, sessions in %s", device, threads, config.run_dir)
    if device.type == "cpu" and not is_compiled():
        log.info(NOT_COMPILED)
    stop.wait()
    log.info("shutting down: ending streams and saving")
    stopped = server.stop(DRAIN_S)
    try:
        sessions.save_all()
    finally:
        while calls.any_open and not stopped.wait(0.1):
            pass
        # gRPC would also wait for connections on which nothing is called.
        server.stop(None).wait()
        thaw_objects()
    log.info("saved; done")
    if sessions.lost is not None:
        raise sessions.lost


def start_server(
    sessions: Sessions, config: ServeConfig, door: Door, calls: EndUnread
) -> tuple[grpc.Server, int]:
    """Bind and start; return the server and its port."""
    # An open stream holds a thread, an export, too; a few more answer the short calls, and what is above them
    # is refused.
    threads = 2 * config.max_sessions + OPEN_AT_ONCE + EXPORTS_AT_ONCE + 4
    server = grpc.server(
        futures.ThreadPoolExecutor(max_workers=threads),
        interceptors=[calls, ErrorsToStatus(), OnlyKnown(door.access.identify)],
        options=[
            ("grpc.so_reuseport", 0),
            ("grpc.max_allowed_incoming_connections", MAX_CONNECTIONS),
            ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
            ("grpc.max_connection_idle_ms", IDLE_CONNECTION_MS),
            *KEEPALIVE,
        ],
        maximum_concurrent_rpcs=threads,
    )
    service = TrainingService(sessions, door.access.identify)
    pb_grpc.add_TrainingServicer_to_server(service, server)  # type: ignore[no-untyped-call]
    checks = Health()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    credentials = door.credentials
    _check_free(config.listen)
    try:
        if credentials is None:
            port = server.add_insecure_port(config.listen)
        else:
            port = server.add_secure_port(config.listen, credentials)
    except RuntimeError as error:
        why = TAKEN
        if not resolves(host := split_address(config.listen, "--listen")[0]):
            why = f"the name {host!r} does not resolve"
        raise ConfigError(_cannot_listen(config.listen, why)) from error
    server.start()
    for service_name in ("", "headwater.v1.Training"):
        checks.set(service_name, health_pb2.HealthCheckResponse.SERVING)
    return server, port


def _check_free(listen: str) -> None:
    """Refuse a name of which one address has the port taken: gRPC would be content with the others."""
    host, port = split_address(listen, "--listen")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):  # gRPC says what is wrong with it
        return
    for family, kind, protocol, _, address in found:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as a server does
                probe.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise ConfigError(_cannot_listen(listen, TAKEN)) from error


def _cannot_listen(listen: str, why: str) -> str:
    return f"cannot listen on {listen}: {why}; choose another with --listen"


def _check_models(config: ServeConfig) -> None:
    for name in sorted(config.model_names or ()):
        if name not in model_names():
            raise ConfigError(f"--models must be names from {', '.join(model_names())}, got {name!r}")
