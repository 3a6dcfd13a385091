"""What one cloud gives, and what those are told who want more."""

import dataclasses

import grpc
import pytest
import torch

from cloud_worker import back
from cloud_worker.config import ServeConfig
from cloud_worker.door import Door
from cloud_worker.limits import Limits
from cloud_worker.server import start_server
from cloud_worker.unread import EndUnread
from common.errors import CapacityError, ConfigError, ModelError
from common.models.catalogue import skeleton
from common.models.split import structure_digest
from tests.unit.cloud_worker.edges import cloud_in_process, refused, welcomed
from tests.unit.cloud_worker.fakes import CountingBack, real_run
from tests.unit.records import RUN, SESSION, hello

Code = grpc.StatusCode
MiB = 1 << 20
OTHER = "11111111-1111-4111-8111-111111111111"


@pytest.fixture(autouse=True)
def no_networks(monkeypatch):
    monkeypatch.setattr("cloud_worker.sessions.Back", CountingBack)


# -------------------------------------------------------------------- one run


def test_a_batch_may_take_what_the_limit_says_and_no_byte_more():
    """128 images of 16 x 8 x 8 float32 activations, which are more than the images' 3 x 16 x 16."""
    run = dataclasses.replace(RUN, batch_size=128, activation_shape=(16, 8, 8), input_shape=(3, 16, 16))
    size = 128 * 16 * 8 * 8 * 4

    Limits(max_batch=size).check_run(run)
    with pytest.raises(CapacityError, match=r"^a batch of 128 takes 512KiB, this cloud allows 512KiB"):
        Limits(max_batch=size - 1).check_run(run)


def test_large_images_count_even_where_little_of_them_is_sent():
    """Their network is built here, too."""
    run = dataclasses.replace(RUN, batch_size=2, activation_shape=(1, 1, 1), input_shape=(3, 4096, 4096))

    with pytest.raises(CapacityError, match=r"takes 384MiB, this cloud allows 16MiB \(its --max-batch\)"):
        Limits(max_batch=16 * MiB).check_run(run)


@pytest.mark.parametrize(
    ("strategy", "change"),
    [
        ("hierarchical", {"num_classes": 65_536, "input_shape": (3, 16, 16), "batch_size": 65_536}),
        ("full-cloud", {"stem": "cifar", "input_shape": (3, 2364, 2364), "batch_size": 8}),
    ],
)
def test_a_step_that_would_take_all_memory_is_refused_before_anything_is_built(strategy, change):
    """Its batches are within the limit; what is behind the first layers, or the last, is not."""
    run = real_run("resnet18", "layer4")
    images = {"activation_shape": run.input_shape, "split": ""} if strategy == "full-cloud" else {}
    run = dataclasses.replace(run, strategy=strategy, **images, **change)
    spec = back.spec_of(run)
    run = dataclasses.replace(run, structure_digest=structure_digest(skeleton(spec)))
    Limits().check_run(run)

    said = r"^the layers' outputs of a step of \d+ images take .*GiB, this cloud allows 12GiB \(its --max"
    with pytest.raises(CapacityError, match=said):
        back.Back(run, torch.device("cpu"), 12 << 30)


def test_an_empty_list_of_models_is_no_list():
    with pytest.raises(ConfigError, match="must name a model, got none"):
        Limits(models=" ,").check_values()


def test_only_the_models_that_are_named_are_trained():
    limits = Limits(models="vgg11, resnet34")

    limits.check_run(dataclasses.replace(RUN, model="resnet34"))
    with pytest.raises(
        ModelError, match=r"^this cloud trains resnet34, vgg11 \(its --models\), got 'resnet18'"
    ):
        limits.check_run(RUN)
    Limits().check_run(RUN)


@pytest.mark.parametrize(
    ("settings", "code", "words"),
    [
        ({"models": "vgg11"}, Code.INVALID_ARGUMENT, r"^this cloud trains vgg11 \(its --models\)"),
        ({"max_batch": 16}, Code.RESOURCE_EXHAUSTED, r"^a batch of 4 takes 48KiB, this cloud allows 16B"),
        (
            {"max_kept": 19},
            Code.RESOURCE_EXHAUSTED,
            r"a new one takes 20B, its limit is 19B \(its --max-kept\)",
        ),
    ],
    ids=["model", "batch", "kept"],
)
def test_a_run_beyond_a_limit_is_refused_and_leaves_nothing(tmp_path, settings, code, words):
    with cloud_in_process(tmp_path, **settings) as cloud, refused(code, words):
        cloud.edge(hello()).reply()

    assert list(tmp_path.iterdir()) == []


# -------------------------------------------------------------------- all together


def test_what_open_sessions_will_take_counts_before_they_have_it(tmp_path):
    """Otherwise any number could be opened before the first one is saved."""
    with cloud_in_process(tmp_path, max_kept=39) as cloud:
        first = welcomed(cloud, session_id=SESSION)
        with refused(
            Code.RESOURCE_EXHAUSTED, r"this cloud keeps .* remove old ones .* cloud-worker sessions rm"
        ):
            cloud.edge(hello(session_id=OTHER)).reply()
        first.call.cancel()

        # The one that is kept may always come back.
        welcomed(cloud, session_id=SESSION, generation=2)


def test_a_stream_that_never_begins_lets_go_of_its_thread(tmp_path, monkeypatch):
    monkeypatch.setattr("cloud_worker.service.FIRST_MESSAGE_S", 0.05)
    with cloud_in_process(tmp_path) as cloud, refused(Code.UNAVAILABLE, r"^no message came for 50ms after"):
        cloud.edge().reply()


# -------------------------------------------------------------------- flags


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_sessions": 0}, r"^--max-sessions must be 1 or more, got 0$"),
        ({"max_step": 0}, r"^--max-step must be above 0B, got 0B$"),
        ({"max_memory": 0}, r"^--max-memory must be above 0B, got 0B$"),
        ({"window": 1000}, r"^--window must be 1MiB or more, got 1000B$"),
        ({"idle_timeout": 0.0}, r"^--idle-timeout must be above 0s, got 0s$"),
        ({"listen": "0.0.0.0:1"}, r"^--listen 0\.0\.0\.0:1 can be reached from other machines.* --insecure"),
        (
            {"tls_ca": "ca", "tokens": "tokens"},
            r"^--tokens and --tls-ca both say who an edge is; leave out one",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_settings_that_cannot_be_meant_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        ServeConfig(**settings)


@pytest.mark.parametrize("settings", [{"tokens": "file"}, {"tls_cert": "file"}, {"insecure": True}])
def test_an_open_address_takes_tls_or_tokens_or_consent(settings):
    ServeConfig(listen="0.0.0.0:1", **settings)


def test_a_port_is_not_bound_before_its_certificates_are_read(tmp_path):
    config = ServeConfig(listen="127.0.0.1:0", tls_cert=tmp_path / "no.crt", tls_key=tmp_path / "no.key")

    with pytest.raises(ConfigError, match=r"^cannot read --tls-cert .*/no\.crt: No such file"):
        start_server(None, config, Door.read(config), EndUnread(60))
