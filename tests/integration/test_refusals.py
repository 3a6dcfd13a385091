"""What a user gets wrong: one line on stderr, the right exit code, nothing half-written."""

import json
import logging
import os
import signal
import socket
import subprocess
from concurrent import futures
from pathlib import Path

import grpc
import pytest
import torch

from benchmarks.processes import BIN, lines_of, run_edge, start_edge, wait_for, worker_env
from common.wire.generated import training_pb2 as pb
from common.wire.generated import training_pb2_grpc as pb_grpc
from common.wire.messages import PROTOCOL_VERSION
from edge_worker.cli import main
from tests.integration.conftest import SMALL_RUN

NOBODY = "127.0.0.1:9"


def refused(done, code, *words, after_others=False):
    """Exactly one line that says it, but for warnings and those of its training, and no traceback."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    *before, line = done.stderr.splitlines()
    assert after_others or before == []
    assert line.startswith("Error: ")
    for word in words:
        assert word in line
    assert done.stdout == ""


@pytest.fixture
def command(capfd):
    """Run `edge-worker` within this process, which spares a start for each of many refusals."""

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return subprocess.CompletedProcess(arguments, ended.value.code, out, err)

    root = logging.getLogger()
    logging_before = root.handlers[:], root.level
    threads_before = torch.get_num_threads()
    yield run
    root.handlers[:], level = logging_before
    root.setLevel(level)
    torch.set_num_threads(threads_before)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--split", "layer9"], ["layer9", "layer2", "edge-worker models"]),
        (["--split", "layer2.0.conv1"], ["layer2.0.conv1", "layer1"]),
        (["--model", "resnet19"], ["resnet19", "resnet18"]),
        (["--exit", "huge"], ["huge", "light"]),
        (["--stem", "tiny"], ["tiny", "imagenet", "cifar"]),
        (["--dataset", "mnist"], ["mnist", "cifar10"]),
        (["--strategy", "magic"], ["magic", "hierarchical", "full-edge"]),
        (["--bits", "5"], ["--bits", "5", "8"]),
        (["--batch-size", "1"], ["--batch-size", "2 or more", "1"]),
        (["--lr", "0"], ["--lr", "above 0"]),
        (["--precision", "half"], ["--precision", "half", "bfloat16"]),
        (["--device", "tpu"], ["--device", "tpu"]),
        (["--train-limit", "100000"], ["100000", "5000"]),
        (["--spool", "64KiB"], ["--spool must hold two batches, 128KiB here, got 64KiB"]),
        (["--log-level", "loud"], ["--log-level", "loud"]),
        (["--dataset", "imagefolder", "--data-dir", "nowhere"], ["nowhere", "--data-dir"]),
        (["--connect-timeout", "1s"], ["no cloud answers at 127.0.0.1:9", "--cloud"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and value[0].startswith("--") else "",
)
def test_wrong_setting_is_one_line_and_exit_code_1(tmp_path, command, arguments, words):
    done = command("train", "--cloud", NOBODY, "--run-dir", tmp_path / "edge", *SMALL_RUN, *arguments)

    refused(done, 1, *words)
    assert not (tmp_path / "edge" / "run.json").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--link-rate", "10"], ["--link-rate", "10mbit"]),
        (["--window", "lots"], ["--window", "8MiB"]),
        (["--epochs", "two"], ["--epochs", "two"]),
        (["--no-such-flag"], ["--no-such-flag"]),
    ],
)
def test_wrong_command_line_is_exit_code_2(tmp_path, command, arguments, words):
    refused(command("train", "--cloud", NOBODY, "--run-dir", tmp_path / "edge", *arguments), 2, *words)


def test_flags_come_from_the_environment_too(tmp_path, command, monkeypatch):
    monkeypatch.setenv("HEADWATER_EDGE_TRAIN_BITS", "5")
    monkeypatch.setenv("HEADWATER_EDGE_TRAIN_RUN_DIR", str(tmp_path / "edge"))

    refused(command("train"), 1, "--bits must be one of 2, 4, 8, 32, got 5")


def test_a_refusal_of_the_real_process_is_one_line_too(tmp_path):
    done = run_edge(NOBODY, tmp_path / "edge", *SMALL_RUN, "--split", "layer9", timeout_s=120)

    refused(done, 1, "layer9", "layer2", "edge-worker models")


def test_other_settings_on_an_old_run_dir_are_refused_with_both_values(clouds, tmp_path):
    cloud, run_dir = clouds(), tmp_path / "edge"
    assert run_edge(cloud.address, run_dir, *SMALL_RUN, "--epochs", "1", timeout_s=250).returncode == 0
    before = {path.name: path.read_bytes() for path in run_dir.iterdir() if path.is_file()}

    done = run_edge(cloud.address, run_dir, *SMALL_RUN, "--epochs", "1", "--bits", "8", timeout_s=60)

    refused(done, 1, "--bits is 4 in the run at", "got 8", "--run-dir")
    assert {path.name: path.read_bytes() for path in run_dir.iterdir() if path.is_file()} == before


def test_the_same_run_dir_twice_at_once_is_refused_and_the_first_goes_on(clouds, tmp_path):
    cloud, run_dir = clouds(), tmp_path / "edge"
    first = start_edge(cloud.address, run_dir, *SMALL_RUN)
    wait_for(lambda: lines_of(run_dir) > 2, "the first batches")
    first.send_signal(signal.SIGSTOP)  # it is not to end before the second one has begun

    second = run_edge(cloud.address, run_dir, *SMALL_RUN, timeout_s=120)
    first.send_signal(signal.SIGCONT)
    _, err = first.communicate(timeout=250)

    refused(second, 1, f"{run_dir} is in use by another process")
    assert first.returncode == 0, err


class OtherVersion(pb_grpc.TrainingServicer):
    """A cloud of a protocol yet to come."""

    def Train(self, request_iterator, context):
        """Answer the Hello with a number that is not ours."""
        next(request_iterator)
        yield pb.TrainReply(welcome=pb.Welcome(protocol_version=77, max_record_bytes=1 << 20))


def test_cloud_of_another_protocol_version_is_refused_with_both(tmp_path):
    server = grpc.server(futures.ThreadPoolExecutor(2))
    pb_grpc.add_TrainingServicer_to_server(OtherVersion(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        done = run_edge(f"127.0.0.1:{port}", tmp_path / "edge", *SMALL_RUN, timeout_s=120)
    finally:
        server.stop(0).wait()

    refused(
        done,
        1,
        f"this edge speaks protocol {PROTOCOL_VERSION}, the cloud 77",
        "install the same headwater on both",
    )
    assert not (tmp_path / "edge" / "run.json").exists()


def serve(*arguments):
    """Run `cloud-worker serve`, which is to end by itself."""
    command = [BIN / "cloud-worker", "serve", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=worker_env(), timeout=120)


def test_port_that_is_taken_is_an_error(clouds, tmp_path):
    cloud = clouds()

    done = serve("--listen", cloud.address, "--run-dir", tmp_path / "other")

    refused(done, 1, f"cannot listen on {cloud.address}", "taken", "--listen")
    assert done.stderr.count("\n") == 1  # not a word of gRPC's own


def test_a_name_that_does_not_resolve_is_told_from_a_port_that_is_taken(tmp_path):
    listen = "nosuchhost.invalid:50062"
    done = serve("--listen", listen, "--insecure", "--run-dir", tmp_path)

    why = "the name 'nosuchhost.invalid' does not resolve"
    refused(done, 1, f"cannot listen on {listen}: {why}", "--listen", after_others=True)


def test_health_wants_a_port(tmp_path):
    command = [BIN / "cloud-worker", "health", "foo"]
    done = subprocess.run(command, capture_output=True, text=True, env=worker_env(), timeout=120)

    refused(done, 2, "address wants HOST:PORT", "'foo'")


@pytest.mark.parametrize(
    ("side", "number", "name"),
    [
        ("edge", signal.SIGINT, "Ctrl-C"),
        ("edge", signal.SIGTERM, "SIGTERM"),
        ("cloud", signal.SIGINT, "Ctrl-C"),
    ],
)
def test_a_signal_while_the_program_still_starts_is_one_line_and_its_exit_code(tmp_path, side, number, name):
    """As it imports torch, which takes seconds on a small device; the first process of a container, too."""
    arguments = (
        ["edge-worker", "train", "--dataset", "synthetic", "--cloud", NOBODY]
        if side == "edge"
        else ["cloud-worker", "serve", "--listen", "127.0.0.1:0"]
    )
    command = [BIN / arguments[0], *arguments[1:], "--run-dir", tmp_path]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=worker_env()
    )
    maps = f"/proc/{process.pid}/maps"
    wait_for(lambda: "libtorch" in Path(maps).read_text(), "the import of torch")

    process.send_signal(number)
    out, err = process.communicate(timeout=120)

    assert (process.returncode, out, err) == (128 + number, "", f"stopped by {name}\n")


def test_run_dir_of_a_running_cloud_is_refused(clouds, tmp_path):
    cloud = clouds()

    refused(serve("--listen", "127.0.0.1:0", "--run-dir", cloud.run_dir), 1, "is in use by another process")


def test_address_that_others_can_reach_needs_insecure(tmp_path):
    refused(serve("--listen", "0.0.0.0:0", "--run-dir", tmp_path), 1, "--listen 0.0.0.0:0", "--insecure")


def test_unreadable_address_is_refused(tmp_path, command):
    refused(command("train", "--cloud", "http://127.0.0.1:9"), 2, "--cloud wants HOST:PORT", "http://")
    refused(
        serve("--listen", "localhost", "--run-dir", tmp_path), 2, "--listen wants HOST:PORT", "'localhost'"
    )


def test_a_name_with_one_address_whose_port_is_taken_is_refused(tmp_path):
    """Else the cloud would be on the other address, and an edge that takes this one at somebody else's."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        listen = f"localhost:{other.getsockname()[1]}"
        refused(serve("--listen", listen, "--run-dir", tmp_path), 1, f"cannot listen on {listen}: the port")


def test_run_dir_that_cannot_be_written_is_named(clouds, tmp_path):
    cloud = clouds()

    done = run_edge(cloud.address, "/dev/full/edge", *SMALL_RUN, timeout_s=120)

    refused(done, 1, "/dev/full/edge")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a read-only disk needs root")
@pytest.mark.parametrize("side", ["edge", "cloud"])
def test_read_only_run_dir_is_named_and_left_as_it_is(tmp_path, side):
    """As a card does that has gone bad; with a run on it, or with none."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", disk]).returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    try:
        (disk / "old").mkdir()
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        for run_dir in (disk / "old", disk / "new"):
            if side == "edge":
                done = run_edge(NOBODY, run_dir, *SMALL_RUN, timeout_s=120)
            else:
                command = [BIN / "cloud-worker", "serve", "--listen", "127.0.0.1:0", "--run-dir", run_dir]
                done = subprocess.run(command, capture_output=True, text=True, env=worker_env(), timeout=120)
            refused(done, 1, str(run_dir), "Read-only file system")
        assert [path.name for path in disk.rglob("*")] == ["old"]
    finally:
        subprocess.run(["umount", "-l", disk], check=False)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
@pytest.mark.parametrize("full_side", ["edge", "cloud"])
def test_full_disk_is_named_in_one_line_and_the_run_goes_on_once_there_is_room(clouds, tmp_path, full_side):
    """A real file system of 8 MiB (the edge's) or 30 MiB (the cloud's) runs full in the midst of training."""
    small = tmp_path / full_side
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=" + {"edge": "1m", "cloud": "30m"}[full_side], "none", small]
    )
    if mounted.returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    try:
        cloud = clouds()
        done = run_edge(cloud.address, tmp_path / "edge", *SMALL_RUN, timeout_s=250)
        words = "cannot write", "No space left on device", "make room"
        refused(done, 1, *words, after_others=True)
        assert not list(small.rglob("*.partial"))

        subprocess.run(["mount", "-o", "remount,size=400m", small], check=True)
        again = run_edge(cloud.address, tmp_path / "edge", *SMALL_RUN, timeout_s=250)
        assert again.returncode == 0, again.stderr
        assert json.loads((tmp_path / "edge" / "summary.json").read_text())["cloud_accuracy"] is not None
        if cloud.process.poll() is None:
            cloud.process.send_signal(signal.SIGTERM)
            cloud.process.wait(60)
    finally:
        subprocess.run(["umount", "-l", small], check=False)
