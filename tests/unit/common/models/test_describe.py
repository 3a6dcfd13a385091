import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from common.errors import ModelError
from common.models.catalogue import ModelSpec, build, model_names, skeleton
from common.models.describe import describe
from common.models.exits import build_exit
from common.models.split import cut, split_points


def test_figures_are_those_of_the_halves():
    """Counted on the real halves with torch's own counter."""
    spec = ModelSpec(name="resnet18", num_classes=10, input_shape=(3, 32, 32), stem="cifar")
    info = next(info for info in describe(spec) if info.split == "layer2")
    halves = cut(build(spec, 0).eval(), spec, "layer2")
    head = build_exit("light", info.activation_shape, 10, 0)

    def flops(module, x):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            module(x)
        return counter.get_total_flops()

    assert info.activation_shape == (128, 16, 16)
    assert info.bytes_per_image == {8: 32768, 4: 16384, 2: 8192, 32: 131072}
    for part, module, shape in (
        ("front", halves.front, (3, 32, 32)),
        ("exit", head, (128, 16, 16)),
        ("back", halves.back, (128, 16, 16)),
    ):
        assert getattr(info, f"{part}_parameters") == sum(p.numel() for p in module.parameters())
        assert getattr(info, f"{part}_flops") == flops(module, torch.zeros(1, *shape)) > 0


@pytest.mark.parametrize("name", model_names())
def test_every_split_point_is_described_and_sums_up(name):
    """What the front gains, the back loses."""
    spec = ModelSpec(name=name, num_classes=10, input_shape=(3, 32, 32))
    total = sum(p.numel() for p in skeleton(spec).parameters())
    infos = describe(spec)
    assert tuple(info.split for info in infos) == split_points(spec)
    assert {info.front_parameters + info.back_parameters for info in infos} == {total}
    assert len({info.front_flops + info.back_flops for info in infos}) == 1
    assert [info.front_flops for info in infos] == sorted(info.front_flops for info in infos)


def test_bytes_are_rounded_up():
    """Three activations of two bits need one byte, not none."""
    spec = ModelSpec(name="resnet18", num_classes=10, input_shape=(3, 33, 33))
    info = describe(spec, bits=(1, 3))[0]
    assert info.activation_shape == (64, 9, 9)
    assert info.bytes_per_image == {1: 648, 3: 1944}


def test_unknown_exit_is_refused():
    with pytest.raises(ModelError, match=r"--exit must be light, got 'none'"):
        describe(ModelSpec(name="resnet18", num_classes=10, input_shape=(3, 32, 32)), exit_kind="none")
