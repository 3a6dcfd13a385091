"""What is no message at all: garbage on the port, connections that say nothing, streams that stall.

Each is held for as long as the server stands it; it must end every one by itself.
"""

import random
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import grpc

from benchmarks.attacks.attacker import Attacker, Tally
from benchmarks.attacks.malformed import STRANGER, Case
from benchmarks.attacks.peer import Peer, chunks
from common.wire.messages import Run

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, PING, HEADERS, CONTINUATION, DATA = 4, 6, 1, 9, 0
SILENT = 20
# The server gives a connection 10 s to become HTTP/2; with other work on the machine, later.
CLOSED_WITHIN_S = 25.0
# It asks an HTTP/2 connection for a sign of life after 25 s, and waits 20 s for it.
PINGED_WITHIN_S = 70.0


def frame(kind: int, payload: bytes = b"", flags: int = 0, stream: int = 0) -> bytes:
    """Return one HTTP/2 frame."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def garbage(rng: random.Random) -> dict[str, bytes]:
    """Return what may come on a port that is open to all."""
    greeted = PREFACE + frame(SETTINGS)
    return {
        "HTTP/1.1": b"GET / HTTP/1.1\r\nHost: headwater\r\n\r\n",
        "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(505),
        "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
        "random bytes": rng.randbytes(4096),
        "a megabyte of them": rng.randbytes(1 << 20),
        "half a preface": PREFACE[:10],
        "a preface and nothing": PREFACE,
        "a preface and random bytes": PREFACE + rng.randbytes(4096),
        "a frame of 16 MiB": greeted + b"\xff\xff\xff" + frame(DATA, stream=1)[3:],
        "settings of an odd size": greeted + frame(SETTINGS, b"\x00" * 5),
        "a ping of an odd size": greeted + frame(PING, b"\x00" * 3),
        "headers that are no HPACK": greeted + frame(HEADERS, b"\xff" * 100, flags=5, stream=1),
        "continuation of nothing": greeted + frame(CONTINUATION, b"\x00" * 9, stream=1),
        "headers of a megabyte": greeted
        + frame(HEADERS, b"\x00" * 9, stream=1)
        + 64 * frame(CONTINUATION, rng.randbytes(16_000), stream=1),
    }


def established() -> dict[str, bytes]:
    """Return what makes a connection that HTTP/2 allows, and that then says nothing, to no ping either."""
    greeted = PREFACE + frame(SETTINGS)
    return {
        "a greeting and nothing": greeted,
        "data without a call": greeted + frame(DATA, bytes(100), stream=1),
    }


def stalls(peer: Peer) -> list[Case]:
    """Return streams that begin well and say no more; the server must end them."""
    first, *_ = chunks(peer.batch(1), 500)

    def case(name: str, *sends: bytes, welcomed: bool = True) -> Case:
        status = frozenset({grpc.StatusCode.UNAVAILABLE})
        return Case(f"{name}, then nothing", sends, status, welcomed=welcomed, stalls=True)

    return [case("opened", welcomed=False), case("Hello"), case("half a record", first)]


class Noise:
    """All of it at once, beside the messages.

    Args:
        address: of the server.
        run: what sessions of stalled streams train.
        token: by which the server knows their edge.
        seed: of what is drawn.

    Attributes:
        tally: of the stalled streams.
        connections: opened with garbage or nothing.
        left_open: those that the server did not close in time, by what came on them.
    """

    def __init__(self, address: str, run: Run, token: str, seed: int) -> None:
        self._address = address
        rng = random.Random(seed)
        self._short = {**garbage(rng), **{f"nothing ({number})": b"" for number in range(SILENT)}}
        self._long = established()
        self._cases = [
            (Attacker(address, run, token, rng.getrandbits(32)), case)
            for case in stalls(Peer(run, STRANGER, token))
        ]
        self.tally = Tally(0)
        self.connections = 0
        self.left_open: list[str] = []

    def make(self, established: bool) -> None:
        """Make all of it once; ends when the server has ended all of it.

        Args:
            established: also what takes a minute.
        """
        timed = [(name, data, CLOSED_WITHIN_S) for name, data in self._short.items()]
        if established:
            timed += [(name, data, PINGED_WITHIN_S) for name, data in self._long.items()]
        with ThreadPoolExecutor(len(timed) + len(self._cases)) as threads:
            closed = [
                (name, threads.submit(_closes, self._address, data, within_s))
                for name, data, within_s in timed
            ]
            ended = [(case, threads.submit(attacker.send, case)) for attacker, case in self._cases]
        for case, answer in ended:
            self.tally.add(case, *answer.result())
        self.left_open += [name for name, is_closed in closed if not is_closed.result()]
        self.connections += len(closed)


def _closes(address: str, data: bytes, within_s: float) -> bool:
    """Send raw bytes on a connection of their own; tell whether the server closes it in time."""
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + within_s
    with socket.create_connection((host, int(port))) as connection:
        try:
            connection.settimeout(within_s)
            connection.sendall(data)
            while connection.recv(1 << 16):
                connection.settimeout(max(0.01, deadline - time.monotonic()))
        except ConnectionError:  # closed, with some words unread
            return True
        except TimeoutError:
            return False
    return True
