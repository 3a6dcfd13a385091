"""An uplink to a fake cloud, with what belongs to it."""

import pytest

from common.endpoint import Endpoint
from edge_worker.config import TrainConfig
from edge_worker.counters import Counters
from edge_worker.outbox import Outbox
from edge_worker.uplink import Uplink
from tests.unit.records import hello

WINDOW = 64 << 10


class Edge:
    """What the training loop sees of the cloud: offers to the outbox, and what came of them."""

    def __init__(self, address, counters_file, spool, connect_timeout):
        config = TrainConfig(cloud=address, window=WINDOW, connect_timeout=connect_timeout)
        self.outbox = Outbox(spool)
        self.counters = Counters(counters_file, clock=lambda: 0.0)
        self.acks, self.hellos = [], 0
        self.uplink = Uplink(
            config, Endpoint(address), self._hello, self.outbox, self.counters, self.acks.append
        )

    def _hello(self):
        self.hellos += 1
        return hello(generation=3, losses_from=self.hellos, kept_from=self.outbox.settled)

    def start(self):
        """Connect, and start sending from where the cloud stands."""
        found = self.uplink.connect()
        self.outbox.start(found.durable, settled=found.durable)
        self.uplink.start()
        return self

    def offer(self, *records):
        """Hand over records, as the training loop does."""
        for record in records:
            self.outbox.offer(record)

    def settled(self):
        """Wait until all that was offered is durable; raises what ended the uplink."""
        return self.outbox.drain(lambda: True)


@pytest.fixture
def edge(tmp_path, monkeypatch):
    """Make an edge for an address; it is closed with the test.

    The uplink's pauses between two tries have no seam but the module's constants, made short here.
    """
    monkeypatch.setattr("edge_worker.uplink.FIRST_RETRY_S", 0.01)
    monkeypatch.setattr("edge_worker.uplink.LAST_RETRY_S", 0.01)
    made = []

    def make(address, spool=1 << 30, connect_timeout=20.0):
        made.append(Edge(address, tmp_path / "counters.json", spool, connect_timeout))
        return made[-1]

    yield make
    for each in made:
        each.uplink.close()
