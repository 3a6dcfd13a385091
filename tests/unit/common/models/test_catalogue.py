import pytest
import torch
from safetensors.torch import save_file

from common.errors import ModelError
from common.models.catalogue import MODELS, ModelSpec, build, loading_lines, model_names, skeleton
from common.models.split import structure_digest, weights_digest


def spec_of(name, **options):
    return ModelSpec(**{"name": name, "num_classes": 10, "input_shape": (3, 32, 32)} | options)


def every_spec():
    for name in model_names():
        options = {"classifier": ("small", "imagenet")} if name[0] == "v" else {"stem": ("imagenet", "cifar")}
        for option, values in options.items():
            yield from (spec_of(name, **{option: value}) for value in values)


def spec_id(spec):
    return f"{spec.name}-{spec.stem}-{spec.classifier}"


def test_same_seed_gives_the_same_weights_and_another_seed_others():
    """The handshake compares this digest, so it must depend on the seed and on nothing else."""
    first = weights_digest(build(spec_of("resnet18"), 1))
    torch.manual_seed(123)  # what torch's own generator holds must not matter
    assert weights_digest(build(spec_of("resnet18"), 1)) == first
    assert weights_digest(build(spec_of("resnet18"), 2)) != first


def test_build_leaves_torchs_generator_alone():
    """A resumed run builds the model again; its dropout must not shift by that."""
    before = torch.get_rng_state()
    build(spec_of("vgg11"), 0)
    assert torch.equal(torch.get_rng_state(), before)


def test_initial_bits_are_these():
    """Pinned: another machine or release of torch must draw the very same bits."""
    weight = build(spec_of("resnet18"), 0).conv1.weight.detach()
    assert [value.hex() for value in weight.flatten()[:3].tolist()] == [
        "-0x1.93e6320000000p-6",
        "0x1.06e6100000000p-5",
        "0x1.00d8820000000p-4",
    ]


def test_scales_are_those_of_torchvision():
    """Only the source of randomness is ours; the distributions are not."""
    model = build(spec_of("vgg11", classifier="imagenet"), 0)
    conv = model.features[8].weight  # 256 outputs, 3x3: kaiming, fan out
    assert conv.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.01)
    assert abs(conv.mean().item()) < 1e-4
    assert model.classifier[3].weight.std().item() == pytest.approx(0.01, rel=0.01)
    assert not model.features[8].bias.any()


def test_small_classifier_keeps_the_default_of_linear_layers():
    """Uniform in +-1/sqrt(inputs), weights and biases, all drawn: nothing is left uninitialised."""
    model = build(spec_of("vgg11"), 0)
    for index in (0, 3, 6):
        weight, bias = model.classifier[index].weight, model.classifier[index].bias
        assert weight.abs().max().item() <= 512**-0.5
        assert weight.std().item() == pytest.approx(512**-0.5 / 3**0.5, rel=0.03)
        assert 0 < bias.abs().max().item() <= 512**-0.5


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_cifar_stem_keeps_the_resolution(name):
    """3x3, stride 1, no pooling."""
    model = build(spec_of(name, stem="cifar"), 0)
    assert model.conv1.weight.shape == (64, 3, 3, 3)
    assert model.conv1.bias is None
    assert model.maxpool(model.conv1(torch.zeros(1, 3, 32, 32))).shape == (1, 64, 32, 32)
    assert model.conv1.weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)


@pytest.mark.parametrize("spec", list(every_spec()), ids=spec_id)
def test_loading_lines_rebuild_the_model(spec, tmp_path):
    """Five lines at most, plain torchvision, strict load."""
    file = str(tmp_path / "whole.safetensors")
    lines = loading_lines(spec, file)
    assert len(lines) <= 5
    if spec.is_vgg and spec != spec_of("vgg11"):  # torchvision draws half a gigabyte: all but the values
        names = {}
        with torch.device("meta"):
            exec("\n".join(lines[:-1]), names)
        names["model"].load_state_dict(skeleton(spec).state_dict())
        assert structure_digest(names["model"]) == structure_digest(skeleton(spec))
        return
    model = build(spec, 3)
    save_file(model.state_dict(), file)
    names = {}
    exec("\n".join(lines), names)
    assert not names["model"].training
    assert weights_digest(names["model"]) == weights_digest(model)
    assert structure_digest(names["model"]) == structure_digest(model)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"name": "resnet19"}, r"no model is called 'resnet19'; did you mean resnet18"),
        ({"name": "lenet"}, r"no model is called 'lenet'"),
        (
            {"name": "vgg16", "stem": "cifar"},
            r"vgg16 has no stem to choose, got 'cifar'; leave it at 'imagenet'",
        ),
        ({"name": "resnet18", "stem": "big"}, r"stem of resnet18 must be imagenet or cifar, got 'big'"),
        ({"name": "resnet18", "classifier": "imagenet"}, r"no classifier to choose, got 'imagenet'"),
        (
            {"name": "vgg11", "classifier": "none"},
            r"classifier of vgg11 must be small or imagenet, got 'none'",
        ),
        ({"name": "vgg11", "input_shape": (3, 28, 28)}, r"H and W at least 32, got 3 x 28 x 28"),
        (
            {"name": "resnet18", "input_shape": (1, 28, 28)},
            r"3 x H x W .* got 1 x 28 x 28; .*repeat their channel",
        ),
        ({"name": "resnet18", "num_classes": 1}, r"at least 2 classes to tell apart, got 1"),
    ],
)
def test_spec_that_names_no_network_is_refused(options, text):
    """Each says what came, what was wanted and what to do."""
    with pytest.raises(ModelError, match=text):
        spec_of(**options)


def test_catalogue_holds_what_it_promises():
    """VGG with and without batch norm, and three ResNets."""
    vggs = {f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn")}
    assert set(MODELS) == vggs | {"resnet18", "resnet34", "resnet50"}
