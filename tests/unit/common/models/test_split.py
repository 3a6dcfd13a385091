import re
import threading

import pytest
import torch
from torch import nn

from common.errors import ModelError
from common.models.catalogue import ModelSpec, build, model_names, skeleton
from common.models.graph import survey, trace
from common.models.split import cut, split_points, structure_digest, weights_digest

VARIANTS = [
    *({"name": name} for name in model_names()),
    *({"name": name, "stem": "cifar"} for name in model_names() if name.startswith("resnet")),
    {"name": "vgg11", "classifier": "imagenet"},
]


def spec_of(name="resnet18", **options):
    return ModelSpec(**{"name": name, "num_classes": 10, "input_shape": (3, 32, 32)} | options)


def images(count=2):
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def outputs_in_every_mode(model, run):
    """Return what `run` yields in eval mode in both memory formats, and in train mode from a fixed seed."""
    model.to(memory_format=torch.contiguous_format)
    torch.manual_seed(1)
    results = [run(images(), True)]
    for layout in (torch.contiguous_format, torch.channels_last):
        model.to(memory_format=layout)
        results.append(run(images().to(memory_format=layout), False))
    return results


@pytest.mark.parametrize("options", VARIANTS, ids=lambda options: "-".join(options.values()))
def test_halves_are_the_model_in_two(options):
    """At every split point: parameters parted exactly, and the same bits come out in every mode."""
    torch.set_num_threads(1)
    spec = spec_of(**options)
    model = build(spec, 0)
    running = {name: buffer.clone() for name, buffer in model.named_buffers()}

    def whole(x, training):
        model.load_state_dict(running, strict=False)
        return model.train(training)(x), {name: b.clone() for name, b in model.named_buffers()}

    with torch.no_grad():
        expected = outputs_in_every_mode(model, whole)
        # The large classifier is in every back, and slow: two cuts show what it could change.
        for point in split_points(spec)[-2 if spec.classifier == "imagenet" else None :]:
            halves = cut(model, spec, point)
            _assert_parted(model, halves)

            def both(x, training, halves=halves):
                model.load_state_dict(running, strict=False)
                activations = halves.front.train(training)(x)
                version = activations._version
                assert tuple(activations.shape[1:]) == halves.activation_shape
                logits = halves.back.train(training)(activations)
                assert activations._version == version  # the back must not write to them
                return logits, {name: b.clone() for name, b in model.named_buffers()}

            for (want, want_buffers), (got, got_buffers) in zip(
                expected, outputs_in_every_mode(model, both), strict=True
            ):
                assert torch.equal(got, want), point
                assert all(torch.equal(got_buffers[name], want_buffers[name]) for name in want_buffers)


def _assert_parted(model, halves):
    front, back = halves.front.state_dict(), halves.back.state_dict()
    assert not front.keys() & back.keys()
    assert front.keys() | back.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert (front | back)[name].data_ptr() == tensor.data_ptr()
    assert list(halves.front.parameters())
    assert list(halves.back.parameters())


def test_friendly_names_in_network_order():
    assert split_points(spec_of()) == (
        *("stem", "layer1.0", "layer1", "layer2.0", "layer2"),
        *("layer3.0", "layer3", "layer4.0", "layer4"),
    )
    plain, normed = split_points(spec_of("vgg16")), split_points(spec_of("vgg16_bn"))
    assert plain == normed
    assert plain[:5] == ("conv1_1", "conv1_2", "pool1", "conv2_1", "conv2_2")
    assert plain[-2:] == ("conv5_3", "pool5")


@pytest.mark.parametrize(
    ("options", "point", "shape"),
    [
        ({}, "stem", (64, 8, 8)),
        ({"stem": "cifar"}, "stem", (64, 32, 32)),
        ({}, "layer2", (128, 4, 4)),
        ({}, "layer2.1", (128, 4, 4)),  # the last block, by its own name
        ({}, "conv1", (64, 16, 16)),  # bn1 makes a tensor of its own: safe to send
        ({}, "avgpool", (512, 1, 1)),
        ({"name": "resnet50"}, "layer1.0", (256, 8, 8)),
        ({"name": "vgg16"}, "conv3_3", (256, 8, 8)),
        ({"name": "vgg16"}, "features.4", (64, 16, 16)),
        ({"name": "vgg16_bn"}, "features.0", (64, 32, 32)),
    ],
)
def test_activation_shape(options, point, shape):
    spec = spec_of(**options)
    assert cut(skeleton(spec), spec, point).activation_shape == shape


def test_activations_at_relu_follow_the_relu():
    """`conv1_1` means after batch norm and ReLU: nothing negative goes up."""
    for name in ("vgg11", "vgg11_bn"):
        spec = spec_of(name)
        assert cut(build(spec, 0).eval(), spec, "conv1_1").front(images()).min().item() == 0


@pytest.mark.parametrize(
    ("options", "point", "text"),
    [
        (
            {},
            "layer2.0.conv1",
            "2 tensors are live there, and exactly one can be sent; nearest split points: ",
        ),
        ({}, "layer2.0.conv1", "nearest split points: layer1 and layer2.0"),
        ({}, "layer3.1.bn2", "nearest split points: layer3.0 and layer3"),
        ({}, "bn1", "relu overwrites the activations in place"),
        ({}, "add", "layer1.0.relu overwrites the activations in place"),
        ({"name": "vgg11"}, "features.0", "features.1 overwrites the activations in place"),
        ({"name": "vgg11_bn"}, "features.1", "features.2 overwrites the activations in place"),
        ({}, "x", "the front would have no parameters to train; nearest split points: stem"),
        ({}, "fc", "shape (10,) per image, wanted C, H, W; nearest split points: layer4"),
        ({"name": "vgg11"}, "classifier.0", "shape (512,) per image, wanted C, H, W"),
        ({}, "layer9", "no split point 'layer9'; did you mean layer4 or layer3 or layer2?"),
        ({}, "bogus", "no split point 'bogus'; choose one of stem, layer1.0"),
        ({}, "output", "no split point 'output'"),
        ({}, "", "no split point ''"),
        ({}, "layer2.", "no split point 'layer2.'"),
        ({"name": "vgg11"}, "conv3_3", "See `edge-worker models vgg11`"),
    ],
)
def test_place_that_cannot_be_cut_is_refused(options, point, text):
    """Says why, and where one can cut instead."""
    spec = spec_of(**options)
    with pytest.raises(ModelError, match=re.escape(text)):
        cut(skeleton(spec), spec, point)


def test_cutting_and_describing_touch_neither_weights_nor_randomness():
    spec = spec_of("vgg11_bn")
    model = build(spec, 0)
    weights, state = weights_digest(model), torch.get_rng_state()
    survey.cache_clear()
    cut(model, spec, "pool3")
    structure_digest(model)
    assert weights_digest(model) == weights
    assert torch.equal(torch.get_rng_state(), state)


def test_modules_from_elsewhere_go_on_following_train_and_eval():
    """Plain tracing freezes `self.training` of modules outside torch.nn."""

    class OnlyInTraining(nn.Module):
        def forward(self, x):
            return x + 1 if self.training else x

    model = nn.Sequential(OnlyInTraining()).train()
    traced = torch.fx.GraphModule(model, trace(model))
    assert traced.train()(torch.zeros(1)).item() == 1
    assert traced.eval()(torch.zeros(1)).item() == 0


def test_other_threads_may_train_while_one_traces():
    """Fx patches nn.Module for all threads; a cloud traces for one session while others train."""
    busy, failures, stop = build(spec_of(), 0).eval(), [], threading.Event()

    def train():
        with torch.no_grad():
            while not stop.is_set():
                try:
                    busy(images(1))
                except Exception as error:
                    failures.append(error)
                    return

    thread = threading.Thread(target=train)
    thread.start()
    graphs = {len(trace(skeleton(spec_of())).nodes) for _ in range(20)}
    stop.set()
    thread.join()
    assert not failures
    assert len(graphs) == 1


def test_structure_digest_tells_networks_apart_and_ignores_weights():
    digest = structure_digest(build(spec_of(), 0))
    assert digest == structure_digest(build(spec_of(), 1))
    others = [spec_of(num_classes=11), spec_of(stem="cifar"), spec_of("resnet34"), spec_of("vgg11")]
    assert len({digest, *(structure_digest(build(other, 0)) for other in others)}) == 5
    strided = build(spec_of(), 0)
    strided.conv1.stride = (1, 1)
    assert structure_digest(strided) != digest


def test_weights_digest_sees_every_bit_and_no_memory_format():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    digest = weights_digest(model)
    assert weights_digest(model.to(memory_format=torch.channels_last)) == digest
    model[1].num_batches_tracked += 1
    assert weights_digest(model) != digest
    assert weights_digest(model.to(torch.bfloat16)) != digest
