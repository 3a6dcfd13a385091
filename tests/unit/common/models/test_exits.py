import pytest
import torch

from common.errors import ModelError
from common.models.exits import build_exit
from common.models.split import weights_digest


def test_light_exit_is_the_mean_over_pixels_and_a_linear_layer():
    """And it leaves the activations, which wait to be sent, as they are."""
    x_NCHW = torch.randn(2, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    before, version = x_NCHW.clone(), x_NCHW._version
    head = build_exit("light", (8, 4, 4), 10, seed=0)

    logits_NK = head(x_NCHW)

    expected = x_NCHW.mean((2, 3)) @ head.linear.weight.T + head.linear.bias
    assert torch.allclose(logits_NK, expected, atol=1e-6)
    assert x_NCHW._version == version
    assert torch.equal(x_NCHW, before)


def test_seed_decides_the_exit():
    """The same bits on a resumed run, whatever torch's generator holds."""
    assert weights_digest(build_exit("light", (8, 4, 4), 10, 1)) == weights_digest(
        build_exit("light", (8, 4, 4), 10, 1)
    )
    assert weights_digest(build_exit("light", (8, 4, 4), 10, 1)) != weights_digest(
        build_exit("light", (8, 4, 4), 10, 2)
    )


def test_unknown_kind_is_refused_with_those_there_are():
    with pytest.raises(ModelError, match=r"--exit must be light, got 'heavy'"):
        build_exit("heavy", (8, 4, 4), 10, 0)
