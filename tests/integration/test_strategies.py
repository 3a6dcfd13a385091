"""The strategies that the method is compared with: trained elsewhere, the same network to the last bit."""

import json
import signal
from pathlib import Path

import pytest
from safetensors.torch import load_file

from benchmarks.outcome import outcome
from benchmarks.processes import cloud_at, finish, lines_of, run_edge, start_edge, wait_for
from tests.integration.conftest import SMALL_RUN, interrupt
from tests.integration.test_pair import in_process, same

# 97 images in batches of 32: each epoch leaves another one over, which goes up in a later one.
RUN = (
    "--dataset synthetic --train-limit 97 --test-limit 40 --batch-size 32 --epochs 3 --model resnet18 "
    "--split layer1 --threads 1 --precision float32 --workers 1 --lr 0.01 --eval-every 1 "
    "--checkpoint-every 0.2s"
).split()
# No codec's error, so that where a layer is trained makes no difference.
SETTINGS = {
    "full-edge": ["--strategy", "full-edge"],
    "resend": ["--strategy", "full-cloud"],
    "once": ["--strategy", "full-cloud", "--images", "once"],
    "split": ["--strategy", "split-learning", "--bits", "32", "--gradient-bits", "32"],
}


def summary_of(run_dir):
    return json.loads((run_dir / "summary.json").read_text())


def session_of(cloud_dir, run_dir):
    return cloud_dir / json.loads((run_dir / "run.json").read_text())["session_id"]


def losses(run_dir, kind):
    events = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [event["loss"] for event in events if event["kind"] == kind]


@pytest.fixture(scope="module")
def untouched(tmp_path_factory) -> Path:
    """A folder with a run of each strategy that nobody touched, what they print, and their cloud."""
    base = tmp_path_factory.mktemp("untouched")
    with cloud_at(base / "cloud") as cloud:
        edges = {name: start_edge(cloud.address, base / name, *RUN, *SETTINGS[name]) for name in SETTINGS}
        for name, edge in edges.items():
            out, err = edge.communicate(timeout=250)
            assert edge.returncode == 0, err
            (base / f"{name}.txt").write_text(out + err)
    return base


def test_it_is_the_same_network_to_the_last_bit_wherever_it_was_trained(untouched):
    """On the edge; in the cloud, of images sent in each epoch or once; split, with gradients sent back."""
    trained = {name: load_file(untouched / name / "front.safetensors") for name in SETTINGS}
    found = {name: summary_of(untouched / name) for name in SETTINGS}

    for name in ("resend", "once", "split"):
        back = load_file(session_of(untouched / "cloud", untouched / name) / "back.safetensors")
        assert same(trained[name] | back, trained["full-edge"]), name
        assert found[name]["cloud_accuracy"] == found["full-edge"]["edge_accuracy"]
        assert losses(untouched / name, "cloud") == pytest.approx(losses(untouched / "full-edge", "edge"))
        assert found[name]["edge_accuracy"] is None
        assert set(losses(untouched / name, "edge")) == {None}


def test_what_each_of_them_says_of_itself(untouched):
    found = {name: summary_of(untouched / name) for name in SETTINGS}
    printed = {name: (untouched / f"{name}.txt").read_text() for name in SETTINGS}

    assert {name: each["images"] for name, each in found.items()} == {
        "full-edge": None,
        "resend": "resend",
        "once": "once",
        "split": None,
    }
    told = {
        name: tuple(each[key] for key in ("split", "bits", "gradient_bits")) for name, each in found.items()
    }
    nothing = (None, None, None)
    assert told == {"full-edge": nothing, "resend": nothing, "once": nothing, "split": ("layer1", 32, 32)}
    assert {each["exit"] for each in found.values()} == {None}
    # One epoch of images, or three; labels and numbers are small beside them.
    assert found["once"]["bytes_up"] < 0.45 * found["resend"]["bytes_up"]
    assert found["split"]["bytes_down"] > 0.5 * found["split"]["bytes_up"]
    assert found["resend"]["bytes_down"] < 0.1 * found["resend"]["bytes_up"]
    assert "images go up as webp" in printed["once"]
    assert "images sent" in printed["resend"]
    assert "split, bits up, bits down" in printed["split"]


def test_images_are_gone_from_the_cloud_once_the_run_is_complete(untouched):
    assert not (session_of(untouched / "cloud", untouched / "once") / "images.bin").exists()


def test_killed_and_resumed_with_images_that_the_cloud_keeps(clouds, tmp_path, untouched):
    """In the second epoch, when most images are no longer at hand on the wire."""
    cloud, run_dir = clouds("--checkpoint-every", "0.2s"), tmp_path / "edge"
    edge = start_edge(cloud.address, run_dir, *RUN, *SETTINGS["once"])
    wait_for(lambda: lines_of(run_dir) > 9 or edge.poll() is not None, "the second epoch")

    cloud.kill()
    edge.kill()
    edge.communicate()
    cloud = clouds(listen=cloud.address)
    finish(start_edge(cloud.address, run_dir))

    assert outcome(cloud.run_dir, run_dir) == outcome(untouched / "cloud", untouched / "once")


def test_interrupted_and_killed_the_cloud_gives_the_same_gradients_again(clouds, tmp_path, untouched):
    """The cloud is killed, and the edge interrupted while it waits for it; later the edge alone is killed."""
    cloud, run_dir = clouds("--checkpoint-every", "0.2s"), tmp_path / "edge"
    edge = start_edge(cloud.address, run_dir, *RUN, *SETTINGS["split"])
    wait_for(lambda: lines_of(run_dir) > 8 or edge.poll() is not None, "a few batches")
    cloud.kill()
    code, _, err = interrupt(edge, signal.SIGINT)
    assert (code, "Traceback" in err) == (130, False), err

    cloud = clouds(listen=cloud.address)
    edge, before = start_edge(cloud.address, run_dir), lines_of(run_dir)
    wait_for(lambda: lines_of(run_dir) > before + 4 or edge.poll() is not None, "a few batches more")
    edge.kill()
    edge.communicate()
    finish(start_edge(cloud.address, run_dir))

    assert outcome(cloud.run_dir, run_dir) == outcome(untouched / "cloud", untouched / "split")


def test_gradients_of_eight_bits_make_of_daemons_what_they_make_of_the_pair_in_one_process(clouds, tmp_path):
    cloud, run_dir, arguments = clouds(), tmp_path / "edge", [*SMALL_RUN, "--strategy", "split-learning"]
    done = run_edge(cloud.address, run_dir, *arguments, timeout_s=250)
    assert done.returncode == 0, done.stderr

    alone = in_process(arguments)

    assert same(load_file(run_dir / "front.safetensors"), alone.front)
    assert same(load_file(session_of(cloud.run_dir, run_dir) / "back.safetensors"), alone.back)
    assert summary_of(run_dir)["cloud_accuracy"] == alone.cloud_accuracy


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("--strategy full-cloud --images twice", "--images must be resend or once, got 'twice'"),
        ("--strategy full-cloud --images once --spool-full drop", "--images once needs --spool-full wait"),
        ("--strategy split-learning --spool-full drop", "--strategy split-learning needs --spool-full wait"),
        ("--strategy split-learning --gradient-bits 3", "--gradient-bits must be one of 2, 4, 8, 32, got 3"),
    ],
)
def test_settings_that_cannot_be_are_refused_and_leave_nothing(tmp_path, arguments, complaint):
    done = run_edge(None, tmp_path / "edge", *RUN, *arguments.split(), timeout_s=60)

    assert done.returncode == 1
    assert complaint in done.stderr
    assert not (tmp_path / "edge").exists()
