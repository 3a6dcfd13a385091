import pytest
import torch
from torch import nn

from common.models.initial import construct


class Custom(nn.Module):
    """A module whose constructor does to its weight what `fill` says."""

    def __init__(self, fill):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1000))
        with torch.no_grad():
            fill(self.weight)


def test_last_fill_counts():
    """A constructor may draw first and overwrite then, as torchvision's do."""
    model = construct(lambda: Custom(lambda w: w.normal_(5, 2).fill_(3)), 0, "init")
    assert (model.weight == 3).all()
    model = construct(lambda: Custom(lambda w: w.fill_(3).uniform_(1, 2)), 0, "init")
    assert 1 <= model.weight.min().item() < model.weight.max().item() <= 2


def test_values_depend_on_name_and_purpose_only():
    """So neither a layer built before nor its order in the constructor matters."""

    def two():
        return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))

    first, other = construct(two, 0, "init"), construct(two, 0, "exit")
    nothing_before = construct(lambda: nn.ModuleDict({"1": nn.Linear(4, 4)}), 0, "init")
    assert torch.equal(first[1].weight, nothing_before["1"].weight)
    assert not torch.equal(first[1].weight, first[0].weight)
    assert not torch.equal(first[1].weight, other[1].weight)


@pytest.mark.parametrize(
    "fill",
    [lambda w: w.exponential_(), lambda w: w.normal_().mul_(2), lambda w: nn.init.trunc_normal_(w)],
    ids=["unknown", "two steps", "values looked at"],
)
def test_fill_that_cannot_be_drawn_portably_is_refused(fill):
    """Better no model than one that differs between edge and cloud."""
    with pytest.raises(NotImplementedError, match=r"common\.models\.initial"):
        construct(lambda: Custom(fill), 0, "init")
