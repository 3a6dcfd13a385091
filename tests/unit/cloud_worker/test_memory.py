"""What a finished session leaves behind in a server's memory."""

import dataclasses
import sys
import uuid
from pathlib import Path

import pytest

from common.wire.messages import End, Position
from tests.unit.cloud_worker.edges import cloud_in_process, welcomed
from tests.unit.cloud_worker.fakes import real_batch, real_run

MiB = 1 << 20


def rss_bytes():
    """What this process has in memory now."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")
def test_memory_does_not_grow_with_the_number_of_finished_sessions(tmp_path):
    """Each has a network of 40 MiB with its momentum, and leaves as much again in the allocator."""
    run = dataclasses.replace(real_run("resnet18", "layer2"), total_batches=1, batches_per_epoch=1)
    sizes = []
    with cloud_in_process(tmp_path) as cloud:
        for _ in range(7):
            edge = welcomed(cloud, run=run, session_id=str(uuid.uuid4()))
            edge.send_records(real_batch(run, 0), End(1))
            edge.until(Position(2))
            edge.close()
            edge.acks()
            assert cloud.sessions._live == {}
            sizes.append(rss_bytes())

    assert max(sizes) < sizes[0] + 60 * MiB
