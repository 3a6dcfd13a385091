"""What a training would take: measured by real processes, and ranked."""

import json
import signal
import subprocess

import pytest

from benchmarks.processes import program, worker_env

SETTINGS = (
    "--dataset synthetic --train-limit 160 --test-limit 20 --batch-size 16 --model resnet18 --threads 1 "
    "--precision float32 --workers 1 --link-rate 5mbit --link-latency 20ms --epochs 3 --images once"
).split()


def run(*arguments):
    command = [*program("edge-worker"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=worker_env(), timeout=250)


def test_a_profile_has_what_a_plan_needs(clouds, tmp_path):
    """Both sides' times, the record's bytes, memory; and the plan reckons with them, for another link too."""
    cloud, path = clouds(), tmp_path / "profile.json"
    done = run("profile", "--cloud", cloud.address, *SETTINGS, "--splits", "layer3", "--out", path)
    assert done.returncode == 0, done.stderr
    assert f"edge-worker plan --profile {path}" in done.stdout

    measured = json.loads(path.read_text())
    (split,) = measured["costs"]["splits"]
    for part, names in (split, ("step_s", "cloud_s")), (split["chain"], ("forward_s", "learn_s", "cloud_s")):
        for name in (*names, "memory_bytes"):
            assert part[name] > 0, name
    sizes = [split["widths"][bits]["bytes"] for bits in ("8", "4", "2")]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] > 0
    # 256 values of 2x2 for each of 16 images, of 8 bits and fewer.
    assert sizes[0] < 16 * 1024 * 1.3
    # A downlink that is not emulated has no bound.
    assert measured["link"] == {"up_bps": 5e6, "down_bps": 1e10, "latency_s": 0.02}
    assert measured["costs"]["batches"] == 10
    assert list(cloud.run_dir.glob("*-*")) == []  # no session was opened

    ranked = json.loads(run("plan", "--profile", path, "--json").stdout)["plans"]
    assert len(ranked) == 3 + 2 * 3
    assert [each["epoch_s"] for each in ranked] == sorted(each["epoch_s"] for each in ranked)
    slow = json.loads(run("plan", "--profile", path, "--link-rate", "10kbit", "--json").stdout)
    assert slow["plans"][0]["strategy"] == "full-edge"
    assert slow["verdict"].startswith("full-edge is faster here than the method")
    assert "best choice by the uplink's rate" in run("plan", "--profile", path).stdout
    none = run("plan", "--profile", path, "--edge-memory", "1MiB")
    assert none.returncode == 1
    assert none.stderr.startswith("Error: nothing fits into --edge-memory 1MiB: the least is ")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--splits", "layer9"], "resnet18 has no split point 'layer9'"),
        (["--cloud", "127.0.0.1:9"], "no cloud answers at 127.0.0.1:9"),
        (["--model", "resnet19"], "resnet19"),
        (["--out", "/nowhere/profile.json"], "--out /nowhere/profile.json: there is no folder /nowhere"),
    ],
)
def test_what_cannot_be_measured_is_said_and_leaves_no_file(tmp_path, arguments, complaint):
    done = run("profile", *SETTINGS, "--out", tmp_path / "profile.json", *arguments)

    assert done.returncode == 1
    assert complaint in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_run_takes_the_plan_s_choice_and_resumes_with_it(clouds, tmp_path):
    cloud, run_dir = clouds(), tmp_path / "edge"
    train = ["train", "--cloud", cloud.address, *SETTINGS, "--run-dir", run_dir]
    auto = ["--split", "layer3", "--bits", "auto"]

    done = run(*train, *auto)

    assert done.returncode == 0, done.stderr
    summary = json.loads((run_dir / "summary.json").read_text())
    choice = json.loads((run_dir / "plan.json").read_text())["choice"]
    assert (
        (summary["split"], summary["bits"]) == (choice["split"], choice["bits"]) == ("layer3", choice["bits"])
    )
    assert "the plan's choice at 5mbit: hierarchical layer3" in done.stderr
    ends = summary["epoch_train_s"]
    assert len(ends) == summary["epochs"]
    assert ends == sorted(ends)
    assert ends[-1] == pytest.approx(summary["train_wall_s"])
    assert len(set(summary["epoch_bytes_up"])) == summary["epochs"]
    again = run(*train, *auto)
    assert again.returncode == 0
    assert "measuring" not in again.stderr


def test_a_profile_that_was_stopped_goes_on_where_it_was(clouds, tmp_path):
    """What was measured of one split point is taken as it is, unless the settings are others."""
    cloud, path = clouds(), tmp_path / "profile.json"
    arguments = ["--cloud", cloud.address, *SETTINGS, "--splits", "layer3,layer4"]
    arguments += ["--strategies", "hierarchical,full-cloud"]
    command = [*program("edge-worker"), "profile", *map(str, arguments), "--out", str(path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=worker_env()) as stopped:
        said = []
        for line in stopped.stderr:
            said.append(line)
            if "measuring layer4" in line:
                stopped.send_signal(signal.SIGTERM)
    assert stopped.returncode == 143, said
    assert any(line.endswith("stopped while measuring; the same command goes on\n") for line in said), said
    (unfinished,) = tmp_path.glob("profile*")
    (before,) = json.loads(unfinished.read_text())["costs"]["splits"]
    assert before["chain"] is None  # nobody asked for it

    done = run("profile", *arguments, "--out", path)

    assert done.returncode == 0, done.stderr
    assert "layer3 was measured before (1 of 2)" in done.stderr
    assert list(tmp_path.glob("profile*")) == [path]
    assert [each["split"] for each in json.loads(path.read_text())["costs"]["splits"]] == ["layer3", "layer4"]
    assert json.loads(path.read_text())["costs"]["splits"][0] == before
